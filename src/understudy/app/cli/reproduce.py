"""reproduce: the rows of a paper, run on images and set beside what it publishes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.app.cli import options, terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.reproduction.papers import Paper, PaperRow
    from understudy.reproduction.workload import Workload

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
    if plan:
        workload = _workload(paper, source, rows, imagenet, limit, epochs, weights, rate, device)
        from understudy.app.reproduction_views import workload_view

        terminal.answer(workload_view(workload, source), workload.to_dict(), as_json=as_json)
        return
    assert imagenet is not None
    from understudy.reproduction.run import RunSettings
    from understudy.reproduction.run import reproduce as run

    folder = Path(f"reproduction-{paper}") if into is None else into
    settings = RunSettings(
        imagenet=imagenet,
        into=folder,
        limit=limit,
        weights=weights or "",
        epochs=epochs,
        batch=batch,
        workers=workers,
        cache_gb=cache_gb,
        device=device,
    )
    from understudy.app.reproduction_views import total_words
    from understudy.reproduction.workload import workload_of

    work = workload_of(
        paper,
        source,
        rows,
        limit=limit,
        epochs=epochs,
        downloads=weights is None,
        train=settings.has_train,
        left_out=settings.left_out(rows),
    )
    if not all(row.missing for row in work.rows):
        terminal.note(f"{total_words(work)} `--plan` says more.")
    with terminal.progress("images", measuring="rounds", exits="epochs") as advance:
        record = run(paper, source, rows, settings, on_progress=advance, on_note=terminal.note)
    from understudy.app.report.page import write_report
    from understudy.app.report.reproduction_page import write_reproduction
    from understudy.app.reproduction_views import reproduction_view
    from understudy.result import Result

    page = folder / f"{paper}.html"
    write_reproduction(record, source, page)
    chosen = {row.name for row in rows}
    found = [one for one in record.rows if one.row.name in chosen]
    for one in found:
        file = folder / one.result
        write_report(Result.load(file), file.with_name("report.html"), source=file)
    shown = reproduction_view(record, source, found)
    data = record.to_dict() | {"record": str(folder / f"{paper}.json"), "report": str(page)}
    terminal.answer(shown, data, as_json=as_json)
    if not as_json:
        terminal.note(f"written to {page}, and as JSON to {folder / f'{paper}.json'}")


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


def _workload(
    name: str,
    paper: Paper,
    rows: Sequence[PaperRow],
    imagenet: Path | None,
    limit: int | None,
    epochs: int | None,
    weights: str | None,
    gmacs: float | None,
    device: str | None,
) -> Workload:
    """What the rows take, at a rate that is given or measured here."""
    from understudy.reproduction.workload import Rate, workload_of

    if gmacs is None:
        from understudy.nn.stage import usable_device
        from understudy.reproduction.run import measured_rate

        rate = measured_rate(usable_device(device))
    else:
        rate = Rate(gmacs * 1e9, "as given by --rate")
    left_out: dict[str, str] = {}
    train = True
    if imagenet is not None:
        from understudy.reproduction.run import RunSettings

        settings = RunSettings(imagenet, Path())
        left_out, train = settings.left_out(rows), settings.has_train
    return workload_of(
        name,
        paper,
        rows,
        limit=limit,
        epochs=epochs,
        downloads=weights is None,
        train=train,
        rate=rate,
        left_out=left_out,
    )
