"""bench: how much of its ideal speed a cascade reaches on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.app.cli import terminal
from understudy.written_places import check_runnable

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.app.bench_result import Bench

WIDTH = 10
MOST = 2**31 - 1  # images


def bench(
    cascade: terminal.CascadePath,
    data: terminal.Data,
    images: Annotated[
        int, typer.Option(min=1, max=MOST, help="Images that a round answers.")
    ] = 2000,
    batch: terminal.StageBatch = 256,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=terminal.MOST_ROUNDS,
            help="How often each contestant is timed. [dim]Default: 5, or 3 where that takes "
            "longer than 10 seconds.[/]",
        ),
    ] = None,
    clients: Annotated[
        int,
        typer.Option(
            min=0,
            max=terminal.MOST_IMAGES,
            help="Clients that wait for answers; 0 leaves latencies out.",
        ),
    ] = 64,
    max_drop: terminal.WithinDrop = None,
    device: terminal.Device = None,
    allow_code: terminal.AllowCode = None,
    out: Annotated[Path | None, terminal.option("FILE", "Write the figures (JSON).")] = None,
    as_json: terminal.Json = False,
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
    terminal.answer(_view(found), found.to_dict(), as_json=as_json)
    if out is not None:  # told before: minutes of work are not lost to a path
        write_document(out, found.to_dict())


def _view(found: Bench) -> Group:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from understudy.app.bench_result import EXECUTOR, LARGE
    from understudy.display import percent

    table = Table(box=SIMPLE_HEAD)
    known = ("accuracy" if found.accuracy else "", "memory" if found.memory else "")
    for number, head in enumerate(("", "images/s", "of large", "", *known)):
        table.add_column(head, justify="left" if number in (0, 3) else "right", no_wrap=True)
    rates = {name: found.rate(name) for name in found.seconds}
    most = max(rates.values())
    for name, rate in sorted(rates.items(), key=lambda pair: pair[1]):
        bar = "█" * max(1, round(WIDTH * rate / most))
        style = "bold" if name == EXECUTOR else ""
        ratio = f"{found.ratio(name, LARGE):.2f} x"
        right = percent(found.accuracy[name]) if name in found.accuracy else ""
        memory = f"{found.memory[name] / 2**20:,.0f} MiB" if name in found.memory else ""
        cells = (_three_digits(rate), ratio, Text(bar, "cyan"), right, memory)
        table.add_row(Text(name, style), *cells)
    rounds = len(found.seconds[EXECUTOR])
    head = (
        f"{found.images:,} images, batches of at most {found.batch}, {rounds} "
        f"{'round' if rounds == 1 else 'rounds'}: medians of the ratios in each"
    )
    return Group(Text(head, "bold"), table, *_online(found), Text(f"  {found.verdict}"))


def _three_digits(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _online(found: Bench) -> list[Any]:
    if not found.online:
        return []
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    table.add_column("clients that wait")
    for name in ("images/s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(name, justify="right")
    for name, load in found.online.items():
        latencies = (f"{ms:.1f}" for ms in load.ms.values())
        table.add_row(f"{name}, {load.clients}", _three_digits(load.rate), *latencies)
    reached = 100 * min(found.online_of_ideal, 1)  # beyond it is noise
    share = f"  {reached:.0f} % of what the stages by themselves could in batches of that size"
    return [table, Text(share), Text()]
