"""build and run: a chosen plan becomes a cascade that answers images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Group
from rich.text import Text

from understudy.app.cli.terminal import Advance, answer, note, pairs, progress
from understudy.errors import ModelError, listed
from understudy.result import Result
from understudy.show import percent, shares_text
from understudy.store import save_answers

if TYPE_CHECKING:
    from understudy.nn import Cascade, Stage
    from understudy.zoo import DataSet

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Run")(build)
    app.command(rich_help_panel="Run")(run)


def build(
    result: Annotated[
        Path,
        typer.Argument(metavar="RESULT", help="What `search --out` wrote.", show_default=False),
    ],
    into: Annotated[Path, typer.Option(metavar="CASCADE", help="The folder to write.")],
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS", help="The budget whose plan is built. [dim]Default: the first.[/]"
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SPEC", help="A model that the table knows by name only. Repeat it."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a cascade that runs: policy, frontier and weights in one folder."""
    cascade, choice = build_cascade(
        Result.load(result), into, max_drop=max_drop, specs=pairs(model or (), "--model")
    )
    data = {
        "cascade": str(into),
        "policy": choice.to_dict(),
        "stages": {name: dict(stage.origin) for name, stage in cascade.stages.items()},
    }
    view = Group(Text(f"  {choice.describe()}"), Text(f"  written to {into}"))
    answer(view, data, as_json=as_json)


def run(
    cascade: Annotated[
        Path, typer.Argument(metavar="CASCADE", help="What `build` wrote.", show_default=False)
    ],
    data: Annotated[str, typer.Option(metavar="DATA", help="folder:DIR, parquet:FILE or digits:")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the answers go: .parquet or .csv.")
    ] = Path("answers.parquet"),
    batch: Annotated[int, typer.Option(min=1, help="Images per batch of every stage.")] = 256,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode images.")] = 2,
    as_json: Json = False,
) -> None:
    """Answer images with a cascade: prediction, confidence, and which exit answered."""
    from understudy.zoo import load_cascade, open_data

    with progress("images") as advance:
        summary = run_cascade(
            load_cascade(cascade),
            open_data(data),
            out,
            batch=batch,
            workers=workers,
            on_progress=advance,
        )
    lines = [
        f"  {summary['samples']:,} images in {summary['seconds']:.2f} s "
        f"({summary['rate']:,.0f} images/s); answered by {shares_text(summary['shares'])}",
        f"  written to {out}",
    ]
    if summary["accuracy"] is not None:
        lines.insert(1, f"  accuracy {percent(summary['accuracy'])}")
    answer(Text("\n".join(lines)), summary, as_json=as_json)


def build_cascade(
    result: Result, into: Path, *, max_drop: float | None, specs: dict[str, str]
) -> tuple[Cascade, Any]:
    """Load the models of a chosen policy, check that they are those that were scored, and save
    them."""
    from understudy.nn import Cascade, save_cascade

    policy = result.choice(max_drop).policy
    origins = {single.name: single.origin for single in result.singles}
    stages = {
        name: _load(name, specs.get(name) or origins[name].get("spec"), origins[name])
        for name in policy.exits
    }
    frontier = [p.to_dict() for p in result.frontier if set(p.policy.exits) <= set(stages)]
    cascade = Cascade(stages, policy, frontier=frontier)
    certificate = result.choice(max_drop).certificate
    proof = None if certificate is None else certificate.to_dict()
    save_cascade(cascade, into, provenance={"certificate": proof, "table": dict(result.table)})
    return cascade, policy


def run_cascade(
    cascade: Cascade,
    data: DataSet,
    out: Path,
    *,
    batch: int,
    workers: int,
    on_progress: Advance,
) -> dict[str, Any]:
    """Answer a data set, write the answers, and sum up what happened."""
    from understudy.nn import answer_stream
    from understudy.zoo import batches

    rows: list[np.ndarray] = []
    corrupt: list[str] = []

    def images() -> Any:
        for block in batches(data, size=batch, workers=workers):
            corrupt.extend(block.corrupt)
            if len(block):
                rows.append(block.positions)
                yield block.images

    start, done, answers = time.perf_counter(), 0, []
    for answered in answer_stream(cascade, images(), batch=batch):
        answers.append(answered)
        done += len(answered)
        on_progress("run", done, len(data))
    seconds = time.perf_counter() - start
    for message in corrupt[:5]:
        note(message)
    if not answers:
        raise ModelError(f"no image of {data.spec!r} could be decoded: {listed(corrupt, 1)}")
    positions = np.concatenate(rows)
    exits = np.concatenate([a.exit.numpy() for a in answers])
    prediction = np.concatenate([a.prediction.numpy() for a in answers])
    columns: dict[str, Any] = {
        "id": data.ids[positions].tolist(),
        "prediction": prediction,
        "confidence": np.concatenate([a.confidence.numpy() for a in answers]),
        "exit": [cascade.exits[number] for number in exits.tolist()],
    }
    if data.classes is not None:
        columns["class"] = [data.classes[number] for number in prediction.tolist()]
    if data.labels is not None:
        columns["label"] = data.labels[positions]
    save_answers(out, columns)
    counts = np.bincount(exits, minlength=len(cascade.exits))
    return {
        "out": str(out),
        "samples": done,
        "corrupt": len(corrupt),
        "seconds": seconds,
        "rate": done / seconds,
        "shares": {
            name: int(counts[cascade.exits.index(name)]) / done for name in cascade.policy.exits
        },
        "accuracy": None
        if data.labels is None
        else float((prediction == data.labels[positions]).mean()),
    }


def _load(name: str, spec: str | None, origin: Any) -> Stage:
    from understudy.zoo import load_stage

    if spec is None:
        raise ModelError(
            f"the table knows the exit {name!r} by its predictions only: name its model with "
            f"--model {name}=SPEC, for example timm:{name}"
        )
    stage = load_stage(spec)
    scored = origin.get("weights_hash")
    if scored is not None and stage.weights_hash != scored:
        raise ModelError(
            f"{spec!r} has other weights than the model that was scored as {name!r} "
            f"({stage.weights_hash[:12]}, not {scored[:12]}): score it again or restore the weights"
        )
    return stage
