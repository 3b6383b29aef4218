"""run: a cascade answers a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from understudy.app.cli import options, terminal
from understudy.display import percent, shares_text
from understudy.written_places import check_runnable

ANSWERS = Path("answers.csv")
SHOWN = 5  # corrupt and failed images that are named


def run(
    cascade: options.CascadePath,
    data: options.Data,
    out: Annotated[
        Path | None,
        options.option(
            "FILE",
            "The file of answers to write: .csv or .parquet. [dim]Default: answers.csv, if there "
            "is none.[/]",
        ),
    ] = None,
    max_drop: options.WithinDrop = None,
    batch: options.StageBatch = 256,
    workers: options.Workers = None,
    device: options.Device = None,
    allow_code: options.AllowCode = None,
    as_json: options.Json = False,
) -> None:
    """Answer images with a cascade: prediction, confidence and the exit that answered."""
    check_runnable(cascade)
    file = _new_file() if out is None else out
    with terminal.progress("images") as advance:
        from understudy.app.run_cascade import (
            decoding_warnings,
            run_cascade,
            setting_warnings,
        )
        from understudy.zoo.data import open_data
        from understudy.zoo.runnables import load_runnable

        loaded = load_runnable(cascade, device, allow_code=allow_code or ())
        if max_drop is not None:
            loaded.set_operating_point(max_drop=max_drop)
        images = open_data(data)
        done = run_cascade(loaded, images, file, batch=batch, workers=workers, on_progress=advance)
        warnings = setting_warnings(cascade, loaded) + decoding_warnings(cascade, images)
    for message in (*warnings, *done.corrupt[:SHOWN], *_causes(done.failed)):
        terminal.note(message)
    accuracy = [] if done.accuracy is None else [f"accuracy {percent(done.accuracy)}"]
    lines = [
        f"{done.samples:,} images in {done.seconds:.2f} s ({done.rate:,.0f} images/s); "
        f"answered by {shares_text(done.shares)}",
        *accuracy,
        f"written to {file}",
    ]
    terminal.answer("\n".join(lines), done.to_dict(), as_json=as_json)


def _new_file() -> Path:
    """The file of answers where none is named.

    Raises:
        UsageError: there is one already.
    """
    if ANSWERS.exists():
        raise terminal.UsageError(
            f"answers are written to a new file unless --out names one, {str(ANSWERS)!r} exists: "
            f"add --out {ANSWERS} to replace it, or another name"
        )
    return ANSWERS


def _causes(failed: Mapping[str, str]) -> list[str]:
    """Why some images have no answer."""
    shown = [f"{image}: {cause}" for image, cause in list(failed.items())[:SHOWN]]
    more = len(failed) - len(shown)
    return [*shown, f"and {more:,} more have no answer"] if more else shown
