"""Single bits are flipped in everything that is stored: does reading notice, or is nothing changed?

    python benchmarks/bit_flips.py [--flips 400 --seed 0 --kind table --json --record]

Of each kind (a table with logits, times and looks; a result; a cascade; exits; an ONNX export) one
bit of one file is flipped at a time: the file is drawn first, then the bit, half of them within
1,000 bytes of an end, where headers and footers are. What is stored is read and used whole: every
array, every detail, a batch of images. A flip is refused in one sentence,
harmless (all that was read is equal), or it counts against the claim: unnoticed, or a traceback.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import harness
from understudy import ScoreTable, load_table, save_table
from understudy.early_exit.network import attach
from understudy.early_exit.serialization import ExitFolder, load_exits, save_exits
from understudy.errors import UnderstudyError
from understudy.looks import count_looks, log_look, logged_looks
from understudy.nn.cascade import Cascade, cascade_of
from understudy.nn.stage import Stage
from understudy.onnx.bundle import read_bundle
from understudy.onnx.cascade import load_onnx
from understudy.onnx.export import export_onnx
from understudy.result import Result
from understudy.searching.search import search
from understudy.zoo.models import build_stage
from understudy.zoo.saved_cascades import load_cascade, provenance_of, save_cascade

CLASSES, SIDE, SAMPLES = 4, 64, 2000
NEAR = 1000  # bytes
SPECS = {
    "tiny": f"timm:test_efficientnet?weights=random&classes={CLASSES}",
    "big": f"timm:test_resnet?weights=random&classes={CLASSES}",
}
OUTCOMES = ("refused", "harmless", "unnoticed", "traceback")
Read = Callable[[Path], Any]


def table() -> ScoreTable:
    """A little model and a large one that knows more, with logits."""
    draw = np.random.default_rng(0)
    label = draw.integers(0, CLASSES, SAMPLES)
    rows = {}
    for name, known in (("tiny", 3.0), ("big", 6.0)):
        logits = draw.standard_normal((SAMPLES, CLASSES)) + known * np.eye(CLASSES)[label]
        powers = np.exp(logits)
        rows[name] = powers / powers.sum(1, keepdims=True)
    scores = ScoreTable.from_probabilities(rows, label, costs={"tiny": 1, "big": 10})
    return scores.with_classes([f"class {number}" for number in range(CLASSES)])


def write_table(path: Path) -> None:
    times = {"ms@1": {"tiny": 0.5, "big": 2.25}}
    scores = replace(table(), times=times)
    save_table(scores, path)
    for number in range(2):
        log_look(path, scores.on("certify").ids, why="search", search={"max_drop": [number]})


def read_table(path: Path) -> Any:
    scores = load_table(path)
    arrays = [scores.prediction, scores.split, *scores.confidence.values()]
    arrays += [] if scores.label is None else [scores.label]
    for detail in scores.details.values():
        arrays += [detail.top_classes, detail.top_probabilities]
        arrays += [] if detail.logits is None else [detail.logits]
    return (
        [str(array.dtype) + digest(array) for array in arrays],
        scores.ids.tolist(),
        scores.exits,
        {**scores.costs, **scores.times},
        scores.classes,
        dict(scores.provenance),
        list(scores.details),
        [count_looks(path, [key]) for key in scores.ids[:50]],
        logged_looks(path),
    )


def write_result(path: Path) -> None:
    search(table(), max_drop=[1.0, 3.0]).save(path / "result.json")


def read_result(path: Path) -> Any:
    return Result.load(path / "result.json").to_dict()


def cascade() -> tuple[Cascade, Result]:
    result = search(table(), max_drop=[1.0, 3.0], at_most_stages=2, without=["ensembles"])
    models = {name: build_stage(spec) for name, spec in SPECS.items()}
    return cascade_of(result, result.choice(3.0).policy, models), result


def write_cascade(path: Path) -> None:
    made, result = cascade()
    proof = result.choice(3.0).certificate
    assert proof is not None
    save_cascade(made, path, provenance={"certificate": proof.to_dict(), "table": result.table})


def read_cascade(path: Path) -> Any:
    found = load_cascade(path)
    return (
        *(found.policy, found.operating_points, found.exits, found.scores, provenance_of(path)),
        {name: stage.to_origin() for name, stage in found.stages.items()},
        *map(digest, (found.answer(images()).prediction, found.answer(images()).confidence)),
    )


def write_exits(path: Path) -> None:
    torch.manual_seed(0)
    save_exits(attach(backbone({}), {"1": "linear", "3": "conv8"}), path, name="net")


def read_exits(path: Path) -> Any:
    network = load_exits(path, stage_of=backbone)
    outputs = [digest(stage(images()).numpy()) for stage in network.stages("net").values()]
    return ExitFolder.read(path).to_dict(), network.weights_hash, outputs


def backbone(origin: Mapping[str, Any]) -> Stage:
    """A small network, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        convolutions = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU()]
        model = nn.Sequential(
            *(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
        )
    pixels = build_stage(SPECS["big"]).preprocess
    return Stage(model, preprocess=pixels, origin={"spec": "backbone"})


def write_onnx(path: Path) -> None:
    logging.getLogger("torch.__trace").disabled = True
    export_onnx(cascade()[0], path, size=(SIDE, SIDE))


def read_onnx(path: Path) -> Any:
    found, batch = load_onnx(path, threads=1), images().numpy()
    return (
        *(found.policy, found.operating_points, found.exits, found.scores, found.images),
        read_bundle(path).to_dict(),
        [digest(found.logits(name, batch)) for name in found.exits],
        *map(digest, (found.answer(batch).prediction, found.answer(batch).confidence)),
    )


def images() -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8, generator=draw)


def digest(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


KINDS: dict[str, tuple[Callable[[Path], None], Read]] = {
    "table": (write_table, read_table),
    "result": (write_result, read_result),
    "cascade": (write_cascade, read_cascade),
    "exits": (write_exits, read_exits),
    "onnx": (write_onnx, read_onnx),
}


def outcome(read: Callable[[], Any], expected: Any) -> str:
    """What reading something damaged comes to."""
    try:
        found = read()
    except UnderstudyError as error:
        return "traceback" if "\n" in str(error) else "refused"
    except Exception:  # noqa: BLE001 - whatever a user would see as a traceback
        return "traceback"
    return "harmless" if repr(found) == repr(expected) else "unnoticed"


def drawn_bit(draw: random.Random, bits: int) -> int:
    """Any bit, or one near an end."""
    near = min(bits, 8 * NEAR)
    any_bit, from_start = draw.randrange(bits), draw.randrange(near)
    return draw.choice([any_bit, any_bit, from_start, bits - 1 - from_start])


def flipped(folder: Path, read: Read, flips: int, *, seed: int) -> dict[str, Any]:
    """The outcomes of single flips in a folder, and those that count against the claim."""
    draw, counts, bad = random.Random(seed), Counter(dict.fromkeys(OUTCOMES, 0)), []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    expected = read(folder)
    for _ in range(flips):
        file = draw.choice(files)
        whole = file.read_bytes()
        bit = drawn_bit(draw, 8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        result = outcome(partial(read, folder), expected)
        file.write_bytes(whole)
        counts[result] += 1
        if result not in ("refused", "harmless"):
            bad.append({"file": file.relative_to(folder).as_posix(), "bit": bit, "found": result})
    assert repr(read(folder)) == repr(expected)
    size = sum(file.stat().st_size for file in files)
    return {"files": len(files), "bytes": size, **counts, "against": bad}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    kinds = arguments.kind or list(KINDS)
    found = {}
    for kind in kinds:
        write, read = KINDS[kind]
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / kind
            write(folder)
            found[kind] = flipped(folder, read, arguments.flips, seed=arguments.seed)
    return {
        "seed": arguments.seed,
        "flips_of_each_kind": arguments.flips,
        "kinds": found,
        "met": not any(one["against"] for one in found.values()),
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flips", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=list(KINDS))


if __name__ == "__main__":
    harness.main(
        measure,
        claim="whatever bit of a stored table, result, cascade, folder of exits or ONNX export is "
        "flipped, reading refuses it in one sentence, or all that is read is equal",
        options=options,
    )
