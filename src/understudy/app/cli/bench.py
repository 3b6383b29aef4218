"""bench: how much of its ideal speed a cascade reaches on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.app.cli import terminal

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.app.bench_result import Bench

WIDTH = 20
MOST = 2**31 - 1  # images


def bench(
    cascade: terminal.CascadePath,
    data: terminal.Data,
    images: Annotated[
        int, typer.Option(min=1, max=MOST, help="Images that a round answers.")
    ] = 2000,
    batch: terminal.StageBatch = 256,
    rounds: Annotated[
        int,
        typer.Option(min=1, max=terminal.MOST_ROUNDS, help="How often each contestant is timed."),
    ] = 5,
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
    """Time a cascade against its large model, its first stage and its ideal, in turns."""
    from understudy.app.bench import BenchJob, bench_cascade
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
    with terminal.progress("turns") as advance:
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

    from understudy.app.bench_result import EXECUTOR, LITTLE
    from understudy.display import percent

    table = Table(box=SIMPLE_HEAD)
    known = ("accuracy" if found.accuracy else "", "peak memory" if found.memory else "")
    for number, head in enumerate(("", "images/s", "of the executor", "", *known)):
        table.add_column(head, justify="left" if number in (0, 3) else "right")
    rates = {name: found.rate(name) for name in found.seconds}
    most = max(rate for name, rate in rates.items() if name != LITTLE)
    for name, rate in sorted(rates.items(), key=lambda pair: pair[1]):
        bar = "█" * min(WIDTH, max(1, round(WIDTH * rate / most)))
        style = "bold" if name == EXECUTOR else ""
        ratio = f"{found.ratio(name, EXECUTOR):.2f} x"
        right = percent(found.accuracy[name]) if name in found.accuracy else ""
        memory = f"{found.memory[name] / 2**20:,.0f} MiB" if name in found.memory else ""
        table.add_row(Text(name, style), f"{rate:,.0f}", ratio, Text(bar, "cyan"), right, memory)
    head = f"{found.images:,} images, batches of {found.batch}, medians of rounds"
    return Group(Text(head, "bold"), table, *_online(found), Text(f"  {found.verdict}"))


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
        table.add_row(f"{name}, {load.clients}", f"{load.rate:,.0f}", *latencies)
    share = f"  {100 * found.online_of_ideal:.0f} % of what the stages could in such batches"
    return [table, Text(share), Text()]
