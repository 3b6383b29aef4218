"""Requests to a cascade that replicas on Ray serve, and whether their answers are right."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import torch

from served_cascades import random_images, served_cascade
from server_processes import ServerProcess

IMAGES = random_images(60, seed=21)
OPTIONS = ("--allow-code", "digit_nets", "--shadow", "0")


@dataclass(frozen=True)
class Answered:
    """What came back for an image."""

    image: int
    status: int
    point: str
    prediction: int
    exit: str


def ask(url: str, image: int) -> Answered:
    tensor = {"name": "image", "shape": [1, 3, 4, 4], "datatype": "UINT8"}
    data = IMAGES[image].ravel().tolist()
    sent = {"inputs": [{**tensor, "data": data}]}
    found = httpx.post(f"{url}/v2/models/cascade/infer", json=sent, timeout=60)
    if found.status_code != 200:
        assert set(found.json()) == {"error"}
        return Answered(image, found.status_code, "", -1, "")
    told = found.json()
    values = {one["name"]: one["data"][0] for one in told["outputs"]}
    point = told["parameters"]["operating_point"]
    return Answered(image, 200, point, values["prediction"], values["exit"])


def ask_all(url: str, rounds: int = 1) -> list[Answered]:
    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(lambda n: ask(url, n % len(IMAGES)), range(rounds * len(IMAGES))))


def check(answers: list[Answered]) -> None:
    """Every answer is that of the policy that it names."""
    cascade = served_cascade()
    for point in {one.point for one in answers}:
        cascade.set_operating_point(name=point)
        expected = cascade.answer(torch.from_numpy(IMAGES))
        names = expected.exit_names()
        for one in answers:
            if one.point == point:
                assert one.prediction == expected.prediction[one.image]
                assert one.exit == names[one.image]


def status(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/status").json()
    return found
