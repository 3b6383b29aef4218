"""reproduce: the rows of a paper, run on images and set beside what it publishes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.app.cli import options, terminal

if TYPE_CHECKING:
    from collections.abc import Collection

    from understudy.reproduction.papers import Paper
    from understudy.reproduction.record import Reproduction
    from understudy.reproduction.workload import Rate

_FASTEST = 1e7  # 10^9 MACs per second: beyond a thousand accelerators


def reproduce(
    paper: Annotated[str, options.argument("PAPER", "little-big, tinysaver or dyce.")],
    imagenet: Annotated[
        Path | None,
        options.option(
            "DIR", "ImageNet: val/ with a folder per class, and train/ where exits are trained."
        ),
    ] = None,
    into: Annotated[
        Path | None,
        options.option("DIR", "Where everything goes. [dim]Default: reproduction-PAPER[/]"),
    ] = None,
    only: Annotated[
        list[str] | None,
        options.option("ROW", "This row alone, or several, joined by commas; `--plan` lists them."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**8,
            metavar="N",
            help="At most N images of each set, in turn from its classes.",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Say what it downloads, computes and takes, and do none of it."
        ),
    ] = False,
    rate: Annotated[
        float | None,
        options.option(
            "GMACS",
            "With --plan: 10^9 MACs per second of the machine. [dim]Default: measured here.[/]",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        options.option(
            "random", "Models without their weights, to try the run: its figures mean nothing."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            metavar="N",
            help="Of training exits. [dim]Default: the paper's.[/]",
        ),
    ] = None,
    cache_gb: options.CacheGb = 8.0,
    batch: Annotated[
        int, typer.Option(min=1, max=options.MOST_IMAGES, help="Images per batch.")
    ] = 256,
    workers: options.Workers = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Run the rows of a paper on ImageNet, and set what is measured beside what it publishes.

    Every row is chosen as the paper chooses (on the images that it reports: optimistic), by the
    same rule on held-out images, and certified. It can be interrupted at any time: the same command
    resumes where it stopped. Begin with `--plan`.
    """
    from understudy.reproduction.papers import load_paper

    source = load_paper(paper)
    rows = source.select(name for text in only or () for name in options.listed_values(text))
    _check(imagenet, weights, rate, plan=plan)
    from understudy.app.reproduction_views import total_words, workload_view
    from understudy.reproduction.settings import RunSettings

    settings = RunSettings(
        imagenet=imagenet,
        into=Path(f"reproduction-{paper}") if into is None else into,
        limit=limit,
        weights=weights or "",
        epochs=epochs,
        batch=batch,
        workers=workers,
        cache_gb=cache_gb,
        device=device,
    )
    if plan:
        work = settings.workload(paper, source, rows, rate=_rate(rate, device))
        terminal.answer(workload_view(work, source), work.to_dict(), as_json=as_json)
        return
    work = settings.workload(paper, source, rows)
    if not all(row.missing for row in work.rows):
        terminal.note(f"{total_words(work)} `--plan` says more.")
    from understudy.reproduction.run import reproduce as run

    with terminal.progress("images", measuring="rounds", exits="epochs") as advance:
        record = run(paper, source, rows, settings, on_progress=advance, on_note=terminal.note)
    _answer(record, source, {row.name for row in rows}, settings.into, as_json=as_json)


def _answer(
    record: Reproduction, paper: Paper, chosen: Collection[str], folder: Path, *, as_json: bool
) -> None:
    """Write the reports of the rows that were chosen, and show them."""
    from understudy.app.report.page import write_report
    from understudy.app.report.reproduction_page import write_reproduction
    from understudy.app.reproduction_views import reproduction_view
    from understudy.result import Result

    page, file = (folder / f"{record.paper}.{ending}" for ending in ("html", "json"))
    write_reproduction(record, paper, page)
    found = [one for one in record.rows if one.row.name in chosen]
    for one in found:
        result = folder / one.result
        write_report(Result.load(result), result.with_name("report.html"), source=result)
    data = record.to_dict() | {"record": str(file), "report": str(page)}
    terminal.answer(reproduction_view(record, paper, found), data, as_json=as_json)
    if not as_json:
        terminal.note(f"written to {page}, and as JSON to {file}")


def _check(imagenet: Path | None, weights: str | None, rate: float | None, *, plan: bool) -> None:
    """Refuse options that do not fit together.

    Raises:
        UsageError: the message has the option.
    """
    if weights not in {None, "random"}:
        raise terminal.UsageError(
            f"--weights is random or left out, for published weights, found {weights!r}: correct it"
        )
    if rate is not None and (not plan or rate <= 0):
        raise terminal.UsageError(
            f"--rate is a number above 0 that --plan takes, found {rate:g}"
            f"{'' if plan else ' without --plan'}: correct it"
        )
    if rate is not None and rate > _FASTEST:
        raise terminal.UsageError(
            f"--rate is in 10^9 MACs per second, at most {_FASTEST:g}, found {rate:g}: write 100 "
            "for 10^11 MACs per second"
        )
    if imagenet is None and not plan:
        raise terminal.UsageError(
            "a paper is run on the images of ImageNet, found none: add --imagenet DIR, or --plan "
            "to see what it takes"
        )
    if imagenet is not None and not imagenet.is_dir():
        raise terminal.UsageError(
            f"--imagenet names a folder, {str(imagenet)!r} is none: check the path"
        )


def _rate(gmacs: float | None, device: str | None) -> Rate:
    """The rate of the machine, as given or measured here."""
    from understudy.reproduction.workload import Rate

    if gmacs is not None:
        return Rate(gmacs * 1e9, "as given by --rate")
    from understudy.nn.stage import usable_device
    from understudy.reproduction.run import measured_rate

    return measured_rate(usable_device(device))
