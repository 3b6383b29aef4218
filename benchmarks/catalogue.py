"""The catalogue of models: every classifier of timm and torchvision, counted on the meta device.

    python benchmarks/catalogue.py --write [--counts FILE] [--processes N] [--record]

`--write` replaces src/understudy/catalogue/models.csv and origin.json. Counts are kept in FILE, one
JSON line each, so that a run which was interrupted goes on. The MACs are compared with those that
timm publishes, at the sizes that it publishes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import harness

CATALOGUE = harness.ROOT / "src" / "understudy" / "catalogue"
COLUMNS = (
    *("spec", "default", "classes", "parameters", "macs", "height", "width"),
    *("licence", "top1"),
)
MEMORY = 12 * 2**30  # bytes of address space of a process that counts
SWAG = "cc-by-nc-4.0"  # what https://github.com/facebookresearch/SWAG/blob/main/LICENSE says
LIBRARIES = ("timm", "torchvision", "torch")
CORES, MINUTES = 2, 30  # in which the table is to be made
NEAR = 0.02  # how far MACs may be from the published ones
ROUNDING = 0.005e9  # published GMACs have two decimals
BATCH_NORM = "published with 1 per element of batch norm"
SAME_PADDING = "published without convolutions that have padding='same'"
GROUP_NORM = "published with 2.5 per element of group norm, 1 of batch norm"
RECURRENT = "published without recurrent layers"
OTHER_DEFINITION = "published of a definition with another number of parameters"
PUBLISHED = (
    "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv",
    "benchmark-infer-fp32-nchw-pt240-cpu-i7_12700h-dynamo.csv",
)


class Work(NamedTuple):
    """A definition to count: a model as its library names it, with its classes, at a size."""

    hub: str
    name: str
    classes: int
    shape: tuple[int, int, int]
    resized: bool = False  # whether the shape is another than the model's own

    @property
    def key(self) -> str:
        """What the counts depend on: tags of an architecture that agree in it share one count."""
        architecture = self.name.partition(".")[0]
        return f"{self.hub}:{architecture} {self.classes} {'x'.join(map(str, self.shape))}"


def timm_works() -> Iterator[tuple[Work, Any]]:
    """Every architecture of timm with each of its weights, and the configuration of each."""
    import timm

    tagged = timm.list_models(pretrained=True)
    without = set(timm.list_models()) - {name.partition(".")[0] for name in tagged}
    for name in sorted((*tagged, *without)):
        config = timm.get_pretrained_cfg(name)
        yield Work("timm", name, config.num_classes, tuple(config.input_size)), config


def torchvision_works() -> Iterator[tuple[Work, Any]]:
    """Every classifier of torchvision with each of its weights."""
    from torchvision import models

    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            side, categories = weights.transforms().crop_size[0], weights.meta["categories"]
            if categories:  # else features alone
                shape = (3, side, side)
                yield Work("torchvision", f"{name}.{weights.name}", len(categories), shape), weights


class Published(NamedTuple):
    """What timm publishes of a definition."""

    macs: float
    parameters: float


def published_works(file: Path) -> Iterator[tuple[Work, Published]]:
    """The definitions that timm publishes MACs of, and what it publishes."""
    import timm

    for row in csv.DictReader(file.open(encoding="utf-8")):
        config, side = timm.get_pretrained_cfg(row["model"]), int(row["infer_img_size"])
        shape = (3, side, side)
        work = Work("timm", row["model"], config.num_classes, shape, shape != config.input_size)
        parameters = 1e6 * float(row["param_count"].replace(",", ""))
        yield work, Published(1e9 * float(row["infer_gmacs"]), parameters)


def count(work: Work) -> dict[str, Any]:
    """What a definition costs, or why it cannot be counted."""
    from understudy.nn.cost import count_definition

    start = time.process_time()
    try:
        cost = count_definition(lambda: made(work), work.shape)
        found = cost._asdict()
    except Exception as error:  # noqa: BLE001 - it stands in the record
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"key": work.key, **found, "processor_seconds": round(time.process_time() - start, 2)}


def made(work: Work) -> Any:
    """The model without weights."""
    if work.hub == "timm":
        import timm

        fixed = work.resized and timm.get_pretrained_cfg(work.name).fixed_input_size
        size = {"img_size": work.shape[1:]} if fixed else {}
        return timm.create_model(work.name, pretrained=False, **size)
    from understudy.zoo.weights import torchvision_stage

    return torchvision_stage(work.name, classes=None, published=False).model


def limited() -> None:
    """Bound the memory of a process that counts, and let others go first."""
    import torch

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.nice(10)
    torch.set_num_threads(1)


def counted(works: Iterable[Work], file: Path, processes: int) -> dict[str, dict[str, Any]]:
    """The counts of all definitions by key; those in the file are not counted again."""
    lines = file.read_text().splitlines() if file.exists() else []
    counts = {entry["key"]: entry for entry in map(json.loads, lines)}
    missing = {work.key: work for work in works if work.key not in counts}
    with (
        file.open("a") as out,
        get_context("spawn").Pool(processes, initializer=limited, maxtasksperchild=200) as pool,
    ):
        for number, entry in enumerate(pool.imap_unordered(count, missing.values()), 1):
            counts[entry["key"]] = entry
            out.write(json.dumps(entry) + "\n")
            out.flush()
            if number % 50 == 0:
                print(f"{number} of {len(missing)}", flush=True)
    return counts


def rows(counts: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The table: one row per set of weights whose definition was counted."""
    known = {}
    for work, weights in torchvision_works():
        accuracy = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        known[weights.url.rpartition("/")[2], work.shape] = accuracy
        licence = SWAG if "SWAG" in weights.meta.get("license", "") else "bsd-3-clause"
        default = weights.name == type(weights).DEFAULT.name
        yield from row(work, counts, default, licence, accuracy)
    import timm

    for work, config in timm_works():
        architecture, _, tag = work.name.partition(".")
        default = tag == (timm.get_pretrained_cfg(architecture).tag or "") or not tag
        licence = config.license if config.license != "unknown" else None
        file = (config.url or "").rpartition("/")[2]
        accuracy = known.get((file, work.shape))
        yield from row(work, counts, default, licence if tag else None, accuracy)


def row(
    work: Work,
    counts: dict[str, dict[str, Any]],
    default: bool,
    licence: str | None,
    accuracy: float | None,
) -> Iterator[dict[str, Any]]:
    """The row of one model; none where it was not counted."""
    cost = counts.get(work.key, {"error": "not counted"})
    if "error" not in cost:
        _, height, width = work.shape
        values = (
            *(f"{work.hub}:{work.name}", int(default), work.classes, cost["parameters"]),
            *(cost["macs"], height, width, licence or "", "" if accuracy is None else accuracy),
        )
        yield dict(zip(COLUMNS, values, strict=True))


def write(table: list[dict[str, Any]], command: str) -> None:
    """The table of the package, and how it was made."""
    with (CATALOGUE / "models.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    origin = {
        "command": command,
        "versions": {name: version(name).partition("+")[0] for name in LIBRARIES},
        "models": len(table),
    }
    (CATALOGUE / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")


def near(macs: float, published: float) -> bool:
    """Whether MACs are the published ones, but for 2 % and the rounding of two decimals."""
    return abs(macs - published) <= NEAR * published + ROUNDING


def compared(counts: dict[str, dict[str, Any]], works: dict[Work, Published]) -> dict[str, Any]:
    """How far the MACs are from published ones, and why."""
    found = {work: counts[work.key] for work in works if "macs" in counts[work.key]}
    far = {
        work.key: {
            "macs": cost["macs"],
            "published": round(works[work].macs),
            "ratio": round(cost["macs"] / works[work].macs, 3),
            "reason": reason(work, cost, works[work]),
        }
        for work, cost in found.items()
        if not near(cost["macs"], works[work].macs)
    }
    unknown = sum(one["reason"] == "unknown" for one in far.values())
    return {
        "published": len(works),
        "counted": len(found),
        "within 2 %": len(found) - len(far),
        "share within 2 %": round(1 - len(far) / len(found), 4),
        "explained or within 2 %": round(1 - unknown / len(found), 4),
        "further, by reason": dict(Counter(one["reason"] for one in far.values())),
        "further": far,
    }


def reason(work: Work, cost: dict[str, Any], published: Published) -> str:
    """What explains that published MACs are others; see `Conventions`."""
    from understudy.nn.cost import count_definition

    macs = cost["macs"]
    if abs(cost["parameters"] - published.parameters) > NEAR * published.parameters:
        return OTHER_DEFINITION
    with Conventions() as other:
        count_definition(lambda: made(work), work.shape)
    for name, value in (
        (BATCH_NORM, macs + other.normalised),
        (GROUP_NORM, macs + other.normalised + 2.5 * other.grouped),
        (SAME_PADDING, macs - other.same),
        (RECURRENT, macs - other.recurrent),
    ):
        if near(value, published.macs):
            return name
    return "unknown"


class Conventions:
    """Counts what the tool by which timm publishes counts otherwise.

    Attributes:
        normalised: elements that batch norm was applied to.
        grouped: elements that group norm was applied to.
        same: MACs of convolutions with padding='same'.
        recurrent: MACs of LSTMs.
    """

    def __init__(self) -> None:
        self.normalised = 0
        self.grouped = 0
        self.same = 0
        self.recurrent = 0

    def __enter__(self) -> Conventions:
        import torch
        from torch.nn import functional

        self._before = (
            *(functional.batch_norm, functional.group_norm),
            *(torch.nn.Conv2d._conv_forward, torch.nn.LSTM.forward),
        )
        normalise, group, convolve, recur = self._before

        def batch_norm(tensor: Any, *arguments: Any, **options: Any) -> Any:
            self.normalised += tensor.numel()
            return normalise(tensor, *arguments, **options)

        def conv_forward(layer: Any, tensor: Any, weight: Any, bias: Any) -> Any:
            result = convolve(layer, tensor, weight, bias)
            if layer.padding == "same":
                self.same += result.numel() * weight[0].numel()
            return result

        def lstm_forward(layer: Any, tensor: Any, *arguments: Any) -> Any:
            weights = sum(one.numel() for one in layer.parameters() if one.ndim == 2)
            self.recurrent += weights * tensor.numel() // tensor.shape[-1]
            return recur(layer, tensor, *arguments)

        def group_norm(tensor: Any, *arguments: Any, **options: Any) -> Any:
            self.grouped += tensor.numel()
            return group(tensor, *arguments, **options)

        functional.batch_norm, functional.group_norm = batch_norm, group_norm
        torch.nn.Conv2d._conv_forward, torch.nn.LSTM.forward = conv_forward, lstm_forward
        return self

    def __exit__(self, *_: object) -> None:
        import torch
        from torch.nn import functional

        functional.batch_norm, functional.group_norm = self._before[:2]
        torch.nn.Conv2d._conv_forward, torch.nn.LSTM.forward = self._before[2:]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    works = [work for work, _ in (*torchvision_works(), *timm_works())]
    counts = counted(works, arguments.counts, arguments.processes)
    definitions = len(counts)
    table = list(rows(counts))
    if arguments.write:
        write(table, "python benchmarks/catalogue.py --write")
    published = {}
    for name in PUBLISHED:
        for work, macs in published_works(harness.shared() / "timm" / name):
            published[work] = macs
    counts = counted(published, arguments.counts, arguments.processes)
    seconds = [one["processor_seconds"] for one in counts.values() if "processor_seconds" in one]
    minutes = statistics.mean(seconds) * definitions / 60 / CORES
    comparison = compared(counts, published)
    return {
        "met": minutes <= MINUTES and comparison["explained or within 2 %"] >= 0.99,
        "definitions": definitions,
        "minutes on 2 cores, by processor time": round(minutes, 1),
        "rows": len(table),
        "architectures": {
            hub: len(
                {one["spec"].partition(".")[0] for one in table if one["spec"].startswith(hub)}
            )
            for hub in ("timm", "torchvision")
        },
        "with top-1": sum(one["top1"] != "" for one in table),
        "not counted": {key: one["error"] for key, one in counts.items() if "error" in one},
        "uncounted operators": sorted(
            {name for one in counts.values() for name in one.get("uncounted", ())}
        ),
        "timm's published MACs": comparison,
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="replace the table of the package")
    parser.add_argument("--counts", type=Path, default=Path("catalogue-counts.jsonl"))
    parser.add_argument("--processes", type=int, default=2)


if __name__ == "__main__":
    harness.main(
        measure,
        claim="every classifier of timm and torchvision is counted within 30 minutes on 2 cores; "
        "99 % of the MACs are within 2 % of timm's, or a convention explains why not",
        options=options,
    )
