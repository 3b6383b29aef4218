"""score: run models over labelled images and write a score table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.app.cli import options, terminal

if TYPE_CHECKING:
    from understudy.scores import ScoreTable
    from understudy.scoring.place import ScoringPlace


def score(
    models: Annotated[list[str], options.argument("MODEL", "SPEC or NAME=SPEC, as above.")],
    data: options.Data,
    into: Annotated[Path, options.option("TABLE", "The table to write or to add to.")],
    measure: Annotated[
        list[str] | None,
        options.option(
            "SIZES",
            "Measure ms per sample in batches of these sizes: 1,16,64,256, or none. [dim]Default: "
            "--batch, or fewer where there are fewer images; over an older table, its own.[/]",
        ),
    ] = None,
    join: Annotated[
        bool,
        typer.Option(
            "--join",
            help="Work with all processes that run this command on a shared folder, on any "
            "machines.",
        ),
    ] = False,
    device: options.Device = None,
    split: options.SplitShares = None,
    allow_code: options.AllowCode = None,
    as_json: options.Json = False,
    batch: Annotated[
        int,
        typer.Option(
            min=1, max=options.MOST_IMAGES, help="Images per batch.", rich_help_panel="Batches"
        ),
    ] = 256,
    workers: options.Workers = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=options.MOST_THREADS,
            metavar="N",
            help="Threads of PyTorch. [dim]Default: one per core; those of the processes that are "
            "joined.[/]",
            show_default=False,
            rich_help_panel="Batches",
        ),
    ] = None,
    keep_logits: Annotated[
        bool | None,
        typer.Option(
            help="Keep all logits (float16), from which search combines models. [dim]Default: up "
            "to 100 classes.[/]",
            rich_help_panel="What is kept",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="A corrupt image is an error, not a skipped sample.",
            rich_help_panel="What is kept",
        ),
    ] = False,
    ray: options.Ray = None,
) -> None:
    """Run models over labelled images and store every model's prediction for every image.

    It can be interrupted at any time: the same command resumes where it stopped. Models that the
    table has already are left as they are. With `--join` any number of processes that run the same
    command (srun, torchrun, a job of Kubernetes) share the work, and replace those that are killed.

    Models, as SPEC or, called NAME in the table, NAME=SPEC:
      timm:NAME, torchvision:NAME  of these libraries, with published weights
      timm:hf-hub:OWNER/NAME, timm:local-dir:DIR   of timm, elsewhere
      hf:OWNER/NAME, hf:DIR        of transformers, with its processor
      onnx:FILE?mean=...&std=...   run by ONNX Runtime
      py:MODULE:FACTORY            what a function of yours returns: a module,
                                   an estimator, a function of images
      exits:DIR                    a network with all its trained exits
      ?checkpoint=FILE             other weights: .safetensors, or plain .pt
      ?weights=random              none: untrained, always the same numbers
      ?classes=N                   their number of classes (not onnx, py)
      ?revision=REV                a branch, tag or commit (hf)
      ?mean=, ?std=, ?scale=, ?size=, ?crop=, ?interpolation=, ?squash=,
      ?layout=                     how images are prepared for an ONNX model
      ?output=, ?outputs=          which output, and what it holds (onnx)
      ?macs=N                      of an estimator or function (py)
      ?run=MODE+MODE               folded, channels_last, bfloat16, float16,
                                   compiled

    Images:
      folder:DIR                   one folder per class, or images alone
      imagenet:DIR                 ImageNet, -V2, -A, -R, -Sketch as they come
      parquet:FILE                 encoded images in a column
      wds:FILE.tar                 tar files of WebDataset
      hf:NAME                      a data set of Hugging Face, or a saved one
      digits:, digits:train, digits:heldout       of scikit-learn
      ?image=, ?label=, ?key=, ?group=COLUMN      of parquet: and hf:
      ?image=, ?label=ENDING       of the files of a sample of wds:
      ?split=, ?config=, ?revision=NAME           of hf:; ?split= of imagenet:
      ?labels=FILE, ?labels=real   of imagenet:, also several right answers
      ?limit=N                     N images of a folder, in turn from its classes
      ?classes=FILE                all names of classes in the models' order
      ?orientation=ignore          not turned as EXIF says
      ?fingerprint=all             hash all files, not 256 of them

    Options are joined as in "SPEC?classes=9&checkpoint=FILE". Folders and files that are there
    need no scheme: `--data val/`. parquet: and wds: also take a folder or a pattern in quotes:
    `--data "wds:train-{000..009}.tar"`.
    """
    from understudy.zoo.model_specs import check_found, named_specs

    if join and ray is not None:
        raise terminal.UsageError(
            "shards are handed out by Ray or claimed in a shared folder, found --ray and --join: "
            "drop one"
        )
    specs = named_specs(models)  # what can be wrong is seen before PyTorch is imported
    for spec in specs.values():
        check_found(spec)
    from understudy.store import check_target

    sizes, shares = _sizes(measure), options.split_shares(split, into=into)
    check_target(into)
    with scoring_on(ray) as place_of, terminal.progress("images", measuring="rounds") as advance:
        from understudy.scoring.further_exits import table_at
        from understudy.scoring.on_disk import score_into

        older = table_at(into)
        scores = score_into(
            into,
            {name: spec.text for name, spec in specs.items()},
            data,
            batch=batch,
            measure_batches=sizes,
            keep_logits=keep_logits,
            strict=strict,
            workers=workers,
            split=shares,
            device=device,
            threads=threads,
            join=join,
            allow_code=allow_code or (),
            on_progress=advance,
            place_of=place_of,
        )
    known = () if older is None else older.names
    scored = [name for name in scores.names if name not in known]
    if scored:
        _note_doubts(scores)
        note_times(scores)
    else:
        terminal.note(f"nothing to do: {into} has these models on these data already")
    done = "written to" if scored else "unchanged in"
    terminal.answer_table(scores, into, as_json=as_json, done=done, scored=scored)


@contextmanager
def scoring_on(ray: str | None) -> Iterator[Callable[..., AbstractContextManager[ScoringPlace]]]:
    """Where models are scored: in this process, or by actors on Ray while the block runs."""
    if ray is None:
        from understudy.scoring.place import this_process

        yield this_process
        return
    from understudy.cluster.connection import connected

    importing = Thread(target=_import_torch, name="understudy-import")
    importing.start()  # which takes as long as it takes to connect
    with ExitStack() as stack:
        with terminal.waiting("connecting to Ray"):
            stack.enter_context(connected(ray or None))
            importing.join()
        from understudy.cluster.scoring_job import on_ray

        yield on_ray


def _import_torch() -> None:
    """Import PyTorch; what fails fails again, and is told, where it is used."""
    with suppress(Exception):
        import_module("torch")


def _sizes(measure: list[str] | None) -> tuple[int, ...] | None:
    """The batch sizes at which models are measured; None leaves the choice to the table."""
    if measure == ["none"]:
        return ()
    return options.batch_sizes(measure, "--measure") if measure else None


def _note_doubts(scores: ScoreTable) -> None:
    """Note images without labels, corrupt ones, and operators whose MACs were not counted."""
    from understudy.errors import listed

    if not scores.labelled.any():
        terminal.note(
            f"{scores.provenance['data']!r} has no labels: what agrees with the reference is "
            "counted, not what is right"
        )
    if scores.provenance.get("left_out"):
        terminal.note(f"{scores.provenance['left_out']:,} images without a right answer left out")
    corrupt = scores.provenance.get("corrupt", {"count": 0, "ids": []})
    if corrupt["count"]:
        images = "image was" if corrupt["count"] == 1 else "images were"
        terminal.note(f"{corrupt['count']} corrupt {images} left out: {listed(corrupt['ids'])}")
    for run in scores.provenance.get("runs", ()):
        for name, size in run.get("smaller_batches", {}).items():
            terminal.note(
                f"{name} did not fit into memory in batches of {run['batch']:,}: it was scored in "
                f"batches of {size:,}"
            )
    for exit in scores.exits:
        uncounted = exit.origin.get("uncounted", ())
        if uncounted:
            terminal.note(f"MACs of {exit.name} leave out the operators {listed(uncounted)}")


def note_times(scores: ScoreTable) -> None:
    """Note times that are noisy, of different sittings, or at odds with the MACs."""
    from understudy.time_noise import time_remarks

    for unit in scores.times:
        for remark in time_remarks(scores, unit):
            terminal.note(remark)
