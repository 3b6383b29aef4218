"""bench: how much of its ideal speed a cascade reaches on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.app.cli import options, terminal
from understudy.written_places import check_runnable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from understudy.app.bench_result import Bench
    from understudy.text_table import TextTable

WIDTH = 10
MOST = 2**31 - 1  # images


def bench(
    cascade: options.CascadePath,
    data: options.Data,
    images: Annotated[
        int, typer.Option(min=1, max=MOST, help="Images that a round answers.")
    ] = 2000,
    batch: options.StageBatch = 256,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=options.MOST_ROUNDS,
            help="How often each contestant is timed. [dim]Default: 5, or 3 where that takes "
            "longer than 10 seconds.[/]",
        ),
    ] = None,
    clients: Annotated[
        int,
        typer.Option(
            min=0,
            max=options.MOST_IMAGES,
            help="Clients that wait for answers; 0 leaves latencies out.",
        ),
    ] = 64,
    max_drop: options.WithinDrop = None,
    device: options.Device = None,
    allow_code: options.AllowCode = None,
    out: Annotated[Path | None, options.option("FILE", "Write the figures (JSON).")] = None,
    as_json: options.Json = False,
) -> None:
    """Time a cascade against its large model, its first stage and its ideal, in turns.

    All answer the same decoded images, round by round. The ideal is what its stages could by
    themselves: each runs on the rows that reach it, in full batches, with nothing in between.
    """
    check_runnable(cascade)
    from understudy.app.bench_job import BenchJob, bench_cascade
    from understudy.documents import write_document

    job = BenchJob(
        cascade,
        data,
        images=images,
        batch=batch,
        max_drop=max_drop,
        device=device,
        allow_code=allow_code or (),
    )
    with terminal.progress("turns", memory="processes") as advance:
        found = bench_cascade(
            job,
            rounds=rounds,
            clients=clients,
            on_progress=advance,
        )
    terminal.answer(bench_view(found), found.to_dict(), as_json=as_json)
    if out is not None:  # told before: minutes of work are not lost to a path
        write_document(out, found.to_dict())


def bench_view(found: Bench) -> Group:
    """The contestants, the clients that wait, and whether the cascade pays."""
    from understudy.display import group_of, note_of

    words = [note_of(f"{text}\n") for text in (found.online_words, found.verdict) if text]
    return group_of(_contestants(found), *_clients(found), *words)


def _contestants(found: Bench) -> TextTable:
    from rich.text import Text

    from understudy.app.bench_result import EXECUTOR, LARGE
    from understudy.display import percent, table_of
    from understudy.text_table import Column

    rates = {name: found.rate(name) for name in found.seconds}
    most = max(rates.values())
    rows: list[list[str | Text]] = []
    for name, rate in sorted(rates.items(), key=lambda pair: pair[1]):
        bar = "█" * max(1, round(WIDTH * rate / most))
        right = [percent(found.accuracy[name]) if name in found.accuracy else ""]
        memory = [f"{found.memory[name] / 2**20:,.0f} MiB" if name in found.memory else ""]
        rows.append(
            [
                Text(name, "bold" if name == EXECUTOR else ""),
                _three_digits(rate),
                f"{found.ratio(name, LARGE):.2f} ×",
                Text(bar, "cyan"),
                *(right if found.accuracy else ()),
                *(memory if found.memory else ()),
            ]
        )
    rounds = len(found.seconds[EXECUTOR])
    title = (
        f"{found.images:,} images, batches of at most {found.batch}, {rounds} "
        f"{'round' if rounds == 1 else 'rounds'}: medians of the ratios in each"
    )
    heads: list[str | Column] = ["timed", "images/s", "of large", Column("", "words")]
    heads += ["accuracy"] * bool(found.accuracy) + ["memory"] * bool(found.memory)
    return table_of(title, heads, rows)


def _three_digits(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _clients(found: Bench) -> list[TextTable]:
    """The table of the clients, where there were some."""
    from understudy.display import table_of

    if not found.online:
        return []
    rows = (
        (
            name,
            f"{load.clients:,}",
            _three_digits(load.rate),
            *(f"{ms:.1f}" for ms in load.ms.values()),
        )
        for name, load in found.online.items()
    )
    heads = ("answered by", "clients", "images/s", "p50 ms", "p95 ms", "p99 ms")
    return [table_of("clients that wait for their answers", heads, rows)]
