"""export: a cascade becomes ONNX models that run without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.app.cli.options import MOST_IMAGES, AllowCode, Json, argument, image_size, option
from understudy.app.cli.terminal import answer, progress
from understudy.written_places import check_cascade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.nn.cascade import Cascade
    from understudy.nn.stage import Images
    from understudy.onnx.parity import Agreement
    from understudy.progress_bars import Advance
    from understudy.zoo.data import DataSet


def export(
    cascade: Annotated[Path, argument("CASCADE", "What `build` wrote.")],
    onnx: Annotated[Path, option("DIR", "The folder to write.", "--onnx")],
    size: Annotated[
        str | None,
        option(
            "HxW",
            "The size of input images. "
            "[dim]Default: that of the largest stage, before it crops their centre.[/]",
        ),
    ] = None,
    exit: Annotated[
        list[str] | None,
        option("NAME", "An exit that no operating point uses, for later policies. Repeat it."),
    ] = None,
    check: Annotated[
        str | None, option("DATA", "Compare both cascades on folder:DIR, parquet:FILE or digits:")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, max=MOST_IMAGES, help="Images per batch of the comparison.")
    ] = 256,
    allow_code: AllowCode = None,
    as_json: Json = False,
) -> None:
    """Write a cascade as ONNX models, one per stage or piece of a network, checked for parity."""
    check_cascade(cascade)
    sides = None if size is None else image_size(size)
    with progress("steps") as advance:
        from understudy.onnx.export import export_onnx
        from understudy.zoo.data import open_data
        from understudy.zoo.saved_cascades import load_cascade

        loaded = load_cascade(cascade, allow_code=allow_code or ())
        data = None if check is None else open_data(check)
        bundle = export_onnx(loaded, onnx, size=sides, exits=exit, on_progress=advance)
        found = None if data is None else _checked(loaded, onnx, data, batch, advance)
    facts = {
        "onnx": str(onnx),
        "images": bundle.images.to_dict(),
        "exits": list(bundle.exits),
        "pieces": {piece.part: piece.difference for piece in bundle.pieces},
        "differences": dict(bundle.differences),
        "tolerance": bundle.tolerance,
        "check": None if found is None else found.to_dict(),
    }
    shape, count = "x".join(map(str, bundle.images.shape)), len(bundle.pieces)
    lines = [
        f"{count} ONNX model{'s' * (count > 1)} for images {bundle.images.dtype} {shape}",
        f"logits within {bundle.difference:.1e} of PyTorch's",
        f"written to {onnx}",
    ]
    if found is not None:
        lines.append(parity_text(found))
    answer("\n".join(lines), facts, as_json=as_json)


def _checked(
    cascade: Cascade, folder: Path, data: DataSet, batch: int, advance: Advance
) -> Agreement:
    from understudy.nn.stage import resizings_of
    from understudy.onnx.cascade import load_onnx
    from understudy.onnx.parity import agreement, export_resizing
    from understudy.zoo.batches import batches

    exported = load_onnx(folder)
    sizes = {export_resizing(cascade, exported), *resizings_of(cascade.stages.values())}

    def images() -> Iterator[Images]:
        for number, block in enumerate(batches(data, size=batch, resizings=sizes), start=1):
            if len(block):
                yield block.images
            advance("check", min(number * batch, len(data)), len(data))

    return agreement(cascade, exported, images())


def parity_text(found: Agreement) -> str:
    """The result of the comparison, in one line."""
    where = (
        "all near a threshold or a tie"
        if not found.unexplained
        else f"{found.unexplained:,} of them away from any threshold or tie"
    )
    same = found.samples - found.differing
    line = f"{same:,} of {found.samples:,} images are answered alike"
    return f"{line}; {found.differing:,} differ, {where}" if found.differing else line
