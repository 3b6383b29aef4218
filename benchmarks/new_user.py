"""The path of a new user, step by step: clone, demo, own images, cascade, server.

The commands are those of the README and of the quick start (tests/test_new_user.py compares them),
run in a clone of HEAD in an empty folder. Own images are 6,000 JPEGs of CIFAR-10's test set. What
stands in for published weights, which are fetched elsewhere: two small networks of timm, trained
here on JPEGs of the training set before the clock starts. Packages come from uv's cache where it
has them, which the record states.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

import harness
from understudy import Result

KNOWN, NEW, TRAINING = 5000, 1000, 4000  # images with labels, without, and to train on
EPOCHS, BATCH, SIDE = 3, 50, 112
QUICK, README = "docs/quickstart.md", "README.md"


class Step(NamedTuple):
    """What a user types, and the page that says so; a server stays until the end."""

    title: str
    command: str
    page: str
    stays: bool = False


STEPS = (
    Step("everything installed, and the demo", "make demo", README),
    Step("`understudy` on the path", ". .venv/bin/activate", README),
    Step(
        "score two networks on own images",
        'understudy score "small=timm:test_byobnet?classes=10&checkpoint=small.safetensors" '
        '"large=timm:test_resnet?classes=10&checkpoint=large.safetensors" '
        "--data folder:val --into table",
        QUICK,
    ),
    Step(
        "search and certify",
        "understudy search table --reference large --max-drop 2 --out result.json",
        QUICK,
    ),
    Step(
        "report, with images",
        "understudy report result.json --table table --data folder:val --out report.html",
        QUICK,
    ),
    Step("build", "understudy build result.json --into cascade", QUICK),
    Step(
        "answer new images", "understudy run cascade --data folder:new --out answers.parquet", QUICK
    ),
    Step("serve, until it answers", "understudy serve cascade", QUICK, stays=True),
    Step(
        "classify an image over HTTP",
        "curl --fail --silent -F image=@image.png http://localhost:8000/classify",
        QUICK,
    ),
)
READY = "answers at http"  # of this server, whoever else listens on the machine


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bring(folder / "brought")
        clone = folder / "understudy"
        rows = [timed("clone", f"git clone --quiet {harness.ROOT} {clone}", folder, os.environ)]
        rows[0]["command"] = "git clone ADDRESS understudy"
        shutil.copytree(folder / "brought", clone, dirs_exist_ok=True)
        rows += walk(clone)
        cascade = found(clone / "result.json")
    seconds = round(sum(row["seconds"] for row in rows), 1)
    failed = [row["step"] for row in rows if row["error"]]
    met = not failed and cascade["certified"]
    return {"seconds": seconds, **cascade, "steps": rows, "failed": failed, "met": met}


def found(path: Path) -> dict[str, Any]:
    """Whether the search certified a cascade of the two networks, and what it saves."""
    if not path.exists():
        return {"certified": False, "saving": 0.0}
    choice = Result.load(path).choice()
    certificate = choice.certificate
    return {
        "certified": certificate is not None and not certificate.falls_back,
        "saving": round(choice.outcome.saving["MACs"], 4),
    }


def walk(clone: Path) -> list[dict[str, Any]]:
    """All steps in the clone, up to the first that fails; servers are stopped in the end."""
    variables = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    rows: list[dict[str, Any]] = []
    servers = []
    try:
        for step in STEPS:
            if step.command.startswith(". "):
                variables["PATH"] = f"{clone / '.venv' / 'bin'}:{variables['PATH']}"
            if step.stays:
                row, server = started(step, clone, variables)
                servers.append(server)
            else:
                row = timed(step.title, step.command, clone, variables)
            rows.append({**row, "page": step.page})
            if row["error"]:
                break
    finally:
        start = perf_counter()
        codes = [stopped(server) for server in servers]
    if codes:
        error = "" if codes == [0] else f"exit codes {codes}"
        rows.append(row_of("Ctrl-C", "stop", perf_counter() - start, error) | {"page": QUICK})
    return rows


def timed(title: str, command: str, folder: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Run a line in a shell."""
    start = perf_counter()
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    error = (ran.stdout + ran.stderr)[-2000:] if ran.returncode else ""
    return row_of(command, title, perf_counter() - start, error)


def started(
    step: Step, folder: Path, variables: Mapping[str, str]
) -> tuple[dict[str, Any], subprocess.Popen[bytes]]:
    """Start a server; it has started when it says where it answers."""
    start = perf_counter()
    log = (folder / "server.log").open("wb")
    server = subprocess.Popen(
        step.command.split(), cwd=folder, env=variables, stdout=log, stderr=log
    )
    while server.poll() is None and perf_counter() - start < 120:
        if READY in (folder / "server.log").read_text():
            return row_of(step.command, step.title, perf_counter() - start, ""), server
        sleep(0.1)
    error = (folder / "server.log").read_text()[-2000:] or "no answer within 2 minutes"
    return row_of(step.command, step.title, perf_counter() - start, error), server


def stopped(server: subprocess.Popen[bytes]) -> int:
    """Its exit code after Ctrl-C."""
    if server.poll() is None:
        server.send_signal(2)
    return server.wait(60)


def row_of(command: str, title: str, seconds: float, error: str) -> dict[str, Any]:
    return {"step": title, "command": command, "seconds": round(seconds, 1), "error": error}


def table(record: Mapping[str, Any]) -> list[str]:
    """The rows of a record as Markdown."""
    lines = ["| step | command | page | seconds |", "|---|---|---|---|"]
    for row in record["steps"]:
        page = row.get("page", "")
        command = row["command"].replace("|", "\\|")
        link = f"[{Path(page).stem}]({_from_docs(page)})" if page else ""
        lines.append(f"| {row['step']} | `{command}` | {link} | {row['seconds']:.1f} |")
    return [*lines, f"| all | | | {record['seconds']:.1f} |"]


def _from_docs(page: str) -> str:
    return page.removeprefix("docs/") if page.startswith("docs/") else f"../{page}"


def bring(folder: Path) -> None:
    """val/CLASS/*.jpg, new/*.jpg and an image; the weights that stand in for published ones."""
    import polars as pl

    cifar = harness.shared() / "cifar10"
    names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    held_out = pl.read_parquet(cifar / "test.parquet").head(KNOWN + NEW)
    for number, row in enumerate(held_out.iter_rows(named=True)):
        place = folder / "val" / names[row["label"]] if number < KNOWN else folder / "new"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:05}.jpg").write_bytes(row["image"])
    shutil.copy(next((folder / "new").iterdir()), folder / "image.png")
    training = pl.read_parquet(cifar / "train.parquet", n_rows=TRAINING)
    train(training["image"].to_list(), training["label"].to_list(), folder)


def train(files: list[bytes], labels: list[int], folder: Path) -> None:
    """small.safetensors and large.safetensors: networks of timm, in a few minutes."""
    from io import BytesIO

    import numpy as np
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_model
    from torch.nn import functional as F

    pixels = np.stack([np.asarray(Image.open(BytesIO(file)).convert("RGB")) for file in files])
    images, targets = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(labels)
    for name, model, rate in (("small", "test_byobnet", 6e-3), ("large", "test_resnet", 3e-3)):
        torch.manual_seed(0)
        network = timm.create_model(model, num_classes=10)
        mean, std = (
            torch.tensor(network.default_cfg[key]).view(3, 1, 1) for key in ("mean", "std")
        )
        optimizer = torch.optim.AdamW(network.parameters())
        steps = EPOCHS * (len(images) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(images)).split(BATCH):
                large = F.interpolate(images[rows].float(), (SIDE, SIDE), mode="bicubic")
                F.cross_entropy(network((large / 255 - mean) / std), targets[rows]).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        save_model(network, str(folder / f"{name}.safetensors"))


if __name__ == "__main__":
    if "--table" in sys.argv:
        import json

        print(*table(json.loads((harness.RESULTS / "new_user.json").read_text())), sep="\n")
        sys.exit(0)
    harness.main(
        measure,
        claim="a new user comes from the clone to a server of own images by the commands of the "
        "README and of the quick start; no step fails",
    )
