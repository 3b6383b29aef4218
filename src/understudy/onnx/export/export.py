"""From a cascade of PyTorch models to a folder of ONNX models that were proved to agree."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from understudy.errors import MissingExtra, ModelError
from understudy.files import check_own_folder, replacing_folder, write_json
from understudy.nn.cascade import Cascade
from understudy.onnx.bundle import IMAGES, NAME, PIECES, OnnxBundle, OnnxPart, Value, hashes_of
from understudy.onnx.cascade import load_onnx
from understudy.onnx.export.parity import distance, random_rows, run_module
from understudy.onnx.export.source import PartSource
from understudy.onnx.export.sources import averages_of, exported_exits, image_of, sources_of
from understudy.onnx.session import Session, first_line, onnx_runtime

OPSET = 20
TOLERANCE = 1e-3
EXAMPLE_ROWS, PROOF_ROWS = 3, (5, 1)  # torch.export takes a batch of 0 or 1 for a constant

Progress = Callable[[str, int, int], None]


def export_onnx(
    cascade: Cascade,
    into: str | Path,
    *,
    image: Tensor | None = None,
    size: tuple[int, int] | None = None,
    exits: Iterable[str] | None = None,
    tolerance: float = TOLERANCE,
    on_progress: Progress = lambda *_: None,
) -> OnnxBundle:
    """Write a cascade as ONNX models, whole or not at all; one that is there is replaced.

    Each model is compared with PyTorch at once, on random images and at other batch sizes than it
    was made with, and so are the logits of every exit. Preprocessing is part of the graphs, for
    images of one size.

    Args:
        cascade: what is exported: the exits of its policy and of its certified settings.
        into: the folder.
        image: one sample as the cascade takes it; only its shape and dtype matter. By default
            black, of the size that the largest stage brings images to before it cuts their centre.
        size: (height, width) of images instead, where it is another.
        exits: further exits, which a policy may then ask.
        tolerance: how far a piece or an exit may be from PyTorch, as a share of the largest value.
        on_progress: called with "export", the pieces that are done, and how many there are.

    Raises:
        MissingExtra: a package that exporting needs is not installed.
        ModelError: a stage that cannot be exported, or that ONNX Runtime runs otherwise.
        PolicyError: no such exit.
        UnderstudyError: the folder cannot be written, or holds something else.
    """
    _check_installed()
    check_own_folder(into, mark=NAME, rule="an exported cascade goes into a folder of its own")
    if image is not None and size is not None:
        raise ModelError(
            f"images come in one size, found `image` {tuple(image.shape)} and size {size}: give one"
        )
    next_stage = exported_exits(cascade, exits)
    sample = image_of(cascade, next_stage, size) if image is None else image.detach().cpu()
    sources = sources_of(cascade, next_stage, sample)
    with replacing_folder(into) as folder:
        (folder / PIECES).mkdir()
        work = _Work(folder, sample, tolerance)
        for number, (source, file) in enumerate(zip(sources, _files(sources), strict=True)):
            on_progress("export", number, len(sources))
            work.add(source, file)
        on_progress("export", len(sources), len(sources))
        bundle = OnnxBundle(
            images=Value(IMAGES, _dtype(sample), tuple(sample.shape)),
            exits=next_stage,
            policy=cascade.policy,
            pieces=tuple(work.pieces),
            averages=averages_of(cascade, next_stage),
            frontier=cascade.operating_points,
            scores={name: s for name, s in cascade.scores.items() if name in next_stage},
            tolerance=tolerance,
            files=hashes_of(folder, sorted((folder / PIECES).iterdir())),
            made_with={
                "torch": torch.__version__,
                "onnx": version("onnx"),
                "onnxruntime": onnx_runtime().__version__,
            },
        )
        write_json(folder / NAME, bundle.to_dict())
        bundle = _proved(bundle, cascade, folder, sample)
        write_json(folder / NAME, bundle.to_dict())
    return bundle


class _Work:
    """Pieces one after another, each proved on what those before it made in PyTorch."""

    def __init__(self, folder: Path, image: Tensor, tolerance: float) -> None:
        self.folder, self.tolerance = folder, tolerance
        self.pieces: list[OnnxPart] = []
        self._example = {IMAGES: random_rows(image, EXAMPLE_ROWS)}
        self._probes = [{IMAGES: random_rows(image, rows)} for rows in PROOF_ROWS]

    def add(self, source: PartSource, file: str) -> None:
        """Export a piece and prove it.

        Raises:
            ModelError: it cannot be exported, or ONNX Runtime runs it otherwise.
        """
        source.module.eval()
        given = [self._example[name] for name in source.takes]
        made = run_module(source.module, given)
        self._example.update(zip(source.gives, made, strict=True))
        _write(source, given, self.folder / file)
        session = self._session(source, file)
        off = max(self._off(source, session, probe) for probe in self._probes)
        if not off <= self.tolerance:
            raise _unlike(source.part, off, self.tolerance)
        takes = tuple(map(_value, source.takes, given))
        gives = tuple(map(_value, source.gives, made))
        self.pieces.append(OnnxPart(source.part, file, takes, gives, off))

    def _session(self, source: PartSource, file: str) -> Session:
        path, takes, gives = self.folder / file, source.takes, source.gives
        try:
            return Session(path, source.part, inputs=takes, outputs=gives, threads=1)
        except ModelError as error:
            raise ModelError(
                f"the stage {source.part!r} was exported, but ONNX Runtime does not take it "
                f"({first_line(error.__cause__ or error)}): export it in float32, or leave that "
                "stage to PyTorch"
            ) from error

    def _off(self, source: PartSource, session: Session, probe: dict[str, Tensor]) -> float:
        given = [probe[name] for name in source.takes]
        truth = run_module(source.module, given)
        probe.update(zip(source.gives, truth, strict=True))
        try:
            found = session([value.numpy() for value in given])
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime fails to run {source.part!r} on {len(given[0])} images, it was "
                f"exported with {EXAMPLE_ROWS} ({first_line(error)}): have the model do alike "
                "whatever the batch, or leave that stage to PyTorch"
            ) from error
        return max(distance(f, t.numpy()) for f, t in zip(found, truth, strict=True))


class _Spread(nn.Module):
    """A module whose inputs are one list, however many it takes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        made: tuple[Tensor, ...] = self.module(*values)
        return made


def _write(source: PartSource, example: Sequence[Tensor], file: Path) -> None:
    """Make an ONNX model of a piece.

    Raises:
        ModelError: an operator that cannot be exported, or a batch that cannot be dynamic.
    """
    first = next(source.module.parameters(), torch.empty(0))
    given = tuple(value.to(first.device) for value in example)
    batch = Dim("batch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Spread(source.module).eval(),
                given,
                dynamo=True,
                dynamic_shapes=(tuple({0: batch} for _ in given),),
                input_names=list(source.takes),
                output_names=list(source.gives),
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            program.save(str(file))
    except Exception as error:
        raise ModelError(
            f"the stage {source.part!r} cannot be exported to ONNX ({_reason(error)}): replace "
            "what it says in the model, or leave that stage to PyTorch"
        ) from error


def _proved(bundle: OnnxBundle, cascade: Cascade, folder: Path, image: Tensor) -> OnnxBundle:
    """The bundle with how far every exit's logits are from those of the cascade itself.

    Raises:
        ModelError: further than the tolerance.
    """
    exported, stages = load_onnx(folder, threads=1), cascade.stages
    rows = random_rows(image, max(PROOF_ROWS))
    differences = {}
    for name in bundle.exits:
        truth = stages[name](rows).float().cpu().numpy()
        differences[name] = off = distance(exported.logits(name, rows.numpy()), truth)
        if not off <= bundle.tolerance:
            raise _unlike(name, off, bundle.tolerance)
    return OnnxBundle(**{**vars(bundle), "differences": differences})


def _unlike(name: str, off: float, tolerance: float) -> ModelError:
    return ModelError(
        f"an exported stage gives what it gives in PyTorch up to {tolerance:g} of the largest "
        f"value, {name!r} is off by {off:.1e}: leave that stage to PyTorch, or allow more"
    )


def _value(name: str, rows: Tensor) -> Value:
    return Value(name, _dtype(rows), tuple(rows.shape[1:]))


def _dtype(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _reason(error: BaseException) -> str:
    """What went wrong at the root, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def _files(sources: Sequence[PartSource]) -> list[str]:
    """A file for each piece: readable, portable, and unique whatever the case."""
    names = [re.sub(r"[^A-Za-z0-9.-]+", "_", source.part).strip("._")[:80] for source in sources]
    return [f"{PIECES}/{number:02d}-{name}.onnx" for number, name in enumerate(names)]


def _check_installed() -> None:
    onnx_runtime()
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise MissingExtra("exporting a cascade to ONNX", "export")
