"""Export of a cascade to a folder of ONNX models, each validated against PyTorch."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from understudy.early_exit.network import ExitNetwork
from understudy.early_exit.stages import ExitStage
from understudy.ensemble import Ensemble
from understudy.errors import MissingExtra, ModelError, PolicyError, unknown
from understudy.folders import check_own_folder, replacing_folder
from understudy.model_card import README, ModelCard, model_text
from understudy.nn.cascade import Cascade, EnsembleStage
from understudy.nn.stage import InputKind, Stage
from understudy.onnx.bundle import NAME, PIECES, OnnxBundle, OnnxPart, Value, hashes_of
from understudy.onnx.cascade import load_onnx
from understudy.onnx.export_graph import ModulePart, part_of_model, parts_of_network
from understudy.onnx.parity import distance, random_rows, run_module
from understudy.onnx.session import Session, first_line, onnx_runtime
from understudy.progress_bars import Advance, no_bar
from understudy.runtime.value_graph import IMAGES

OPSET = 20
TOLERANCE = 1e-3
EXAMPLE_ROWS, PROBE_ROWS = 3, (5, 1)  # torch.export takes a batch of 0 or 1 for a constant


def export_onnx(
    cascade: Cascade,
    into: str | Path,
    *,
    image: Tensor | None = None,
    size: tuple[int, int] | None = None,
    exits: Iterable[str] | None = None,
    tolerance: float = TOLERANCE,
    on_progress: Advance = no_bar,
) -> OnnxBundle:
    """Write a cascade as ONNX models, whole or not at all; an exported cascade there is replaced.

    The exits of its policy and of its certified operating points are exported. Each model is
    compared with PyTorch on random images, at other batch sizes than it was exported with, and so
    are the logits of every exit. Preprocessing is part of the graphs, for images of one size.

    Args:
        cascade: with PyTorch models.
        into: the folder.
        image: one sample as the cascade takes it; only its shape and dtype matter. By default
            black, of the size to which the largest stage resizes images before it crops them.
        size: (height, width) of images, if not the default one.
        exits: further exits, for other policies.
        tolerance: how far a part or an exit may be from PyTorch, as a share of the largest value.
        on_progress: called with "export", the number of parts that are done, and of all parts.

    ```python
    bundle = export_onnx(cascade, "out")
    print(bundle.images.shape, bundle.difference)
    ```

    Raises:
        MissingExtra: a package that exporting needs is not installed.
        ModelError: a stage that cannot be exported, or with other results in ONNX Runtime.
        PolicyError: no such exit.
        UnderstudyError: the folder cannot be written, or holds something else.
    """
    _check_installed()
    check_own_folder(into, mark=NAME, rule="an exported cascade goes into a folder of its own")
    if image is not None and size is not None:
        raise ModelError(
            f"images come in one size, found `image` {tuple(image.shape)} and size {size}: give one"
        )
    exported = exported_exits(cascade, exits)
    sample = image_of(cascade, exported, size) if image is None else image.detach().cpu()
    parts = _module_parts(cascade, exported, sample)
    with replacing_folder(into) as folder:
        (folder / PIECES).mkdir()
        exporter = _PartExporter(folder, sample, tolerance)
        for number, (part, file) in enumerate(zip(parts, _files(parts), strict=True)):
            on_progress("export", number, len(parts))
            exporter.add(part, file)
        on_progress("export", len(parts), len(parts))
        bundle = _bundle(cascade, exported, exporter, sample)
        bundle.save(folder / NAME)
        differences = _differences(bundle, cascade, folder, sample)
        bundle = replace(bundle, differences=differences)
        bundle.save(folder / NAME)
        (folder / README).write_text(_card(cascade, bundle).markdown, encoding="utf-8")
    return bundle


def _card(cascade: Cascade, bundle: OnnxBundle) -> ModelCard:
    """What the folder says of itself to a reader."""
    return ModelCard(
        bundle.policy,
        bundle.frontier,
        {name: model_text(cascade.stages[name].origin) for name in bundle.exits},
        (
            'from understudy.onnx import load_onnx\n\ncascade = load_onnx(".")',
            "understudy run . --data folder:images/",
        ),
        classes=None if cascade.classes is None else len(cascade.classes),
    )


def _bundle(
    cascade: Cascade, exits: tuple[str, ...], exporter: _PartExporter, sample: Tensor
) -> OnnxBundle:
    """The description of what was exported, before the logits of its exits are compared."""
    points = cascade.operating_points
    return OnnxBundle(
        images=Value(IMAGES, _dtype(sample), tuple(sample.shape)),
        exits=exits,
        policy=cascade.policy,
        pieces=tuple(exporter.exported),
        averages=_ensembles(cascade, exits),
        frontier=points,
        scores={name: score for name, score in cascade.scores.items() if name in exits},
        tolerance=exporter.tolerance,
        files=hashes_of(exporter.folder, sorted((exporter.folder / PIECES).iterdir())),
        made_with={
            "torch": torch.__version__,
            "onnx": version("onnx"),
            "onnxruntime": onnx_runtime().__version__,
        },
        certificate=next((p.certificate for p in points if p.policy == cascade.policy), None),
        classes=cascade.classes,
    )


class _PartExporter:
    """Exports parts one after another, each validated on the outputs of earlier ones in PyTorch."""

    def __init__(self, folder: Path, image: Tensor, tolerance: float) -> None:
        self.folder, self.tolerance = folder, tolerance
        self.exported: list[OnnxPart] = []
        self._example = {IMAGES: random_rows(image, EXAMPLE_ROWS)}
        self._probes = [{IMAGES: random_rows(image, rows)} for rows in PROBE_ROWS]

    def add(self, part: ModulePart, file: str) -> None:
        """Export a part and validate it.

        Raises:
            ModelError: it cannot be exported, or has other results in ONNX Runtime.
        """
        part.module.eval()
        inputs = [self._example[name] for name in part.inputs]
        outputs = run_module(part.module, inputs)
        self._example.update(zip(part.outputs, outputs, strict=True))
        _write(part, inputs, self.folder / file)
        session = self._session(part, file)
        off = max(self._difference(part, session, probe) for probe in self._probes)
        if not off <= self.tolerance:
            raise _mismatch(part.part, off, self.tolerance)
        takes = tuple(map(_value, part.inputs, inputs))
        gives = tuple(map(_value, part.outputs, outputs))
        self.exported.append(OnnxPart(part.part, file, takes, gives, off))

    def _session(self, part: ModulePart, file: str) -> Session:
        path = self.folder / file
        try:
            return Session(path, part.part, inputs=part.inputs, outputs=part.outputs, threads=1)
        except ModelError as error:
            raise ModelError(
                f"the stage {part.part!r} was exported, but ONNX Runtime does not take it "
                f"({first_line(error.__cause__ or error)}): export it in float32, or leave that "
                "stage to PyTorch"
            ) from error

    def _difference(self, part: ModulePart, session: Session, values: dict[str, Tensor]) -> float:
        inputs = [values[name] for name in part.inputs]
        expected = run_module(part.module, inputs)
        values.update(zip(part.outputs, expected, strict=True))
        try:
            found = session([value.numpy() for value in inputs])
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime fails to run {part.part!r} on {len(inputs[0])} images, it was "
                f"exported with {EXAMPLE_ROWS} ({first_line(error)}): make the model independent "
                "of the batch size, or leave that stage to PyTorch"
            ) from error
        return max(distance(f, t.numpy()) for f, t in zip(found, expected, strict=True))


class _Variadic(nn.Module):
    """A module whose inputs are one tuple, so that one dynamic shape is declared for each."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.module(*values)
        return outputs


def _write(part: ModulePart, example: Sequence[Tensor], file: Path) -> None:
    """Write a part as an ONNX model.

    Raises:
        ModelError: an operator that cannot be exported, or a batch that cannot be dynamic.
    """
    first = next(part.module.parameters(), torch.empty(0))
    inputs = tuple(value.to(first.device) for value in example)
    batch = Dim("batch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Variadic(part.module).eval(),
                inputs,
                dynamo=True,
                dynamic_shapes=(tuple({0: batch} for _ in inputs),),
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
    except Exception as error:
        raise ModelError(
            f"the stage {part.part!r} cannot be exported to ONNX ({_root_cause(error)}): replace "
            "that in the model, or leave the stage to PyTorch"
        ) from error
    program.save(str(file))


def _differences(
    bundle: OnnxBundle, cascade: Cascade, folder: Path, image: Tensor
) -> dict[str, float]:
    """How far every exit's logits are from those of the cascade, as a share of the largest.

    Raises:
        ModelError: further than the tolerance.
    """
    exported, stages = load_onnx(folder, threads=1), cascade.stages
    rows = random_rows(image, max(PROBE_ROWS))
    differences = {}
    for name in bundle.exits:
        expected = stages[name](rows).float().cpu().numpy()
        differences[name] = off = distance(exported.logits(name, rows.numpy()), expected)
        if not off <= bundle.tolerance:
            raise _mismatch(name, off, bundle.tolerance)
    return differences


def _mismatch(name: str, off: float, tolerance: float) -> ModelError:
    return ModelError(
        f"an exported stage has the results of PyTorch up to {tolerance:g} of the largest value, "
        f"{name!r} is off by {off:.1e}: leave that stage to PyTorch, or raise the tolerance"
    )


def _value(name: str, rows: Tensor) -> Value:
    return Value(name, _dtype(rows), tuple(rows.shape[1:]))


def _dtype(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _root_cause(error: BaseException) -> str:
    """The first error of a chain, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def _files(parts: Sequence[ModulePart]) -> list[str]:
    """A file for each part: readable, portable, and unique regardless of case."""
    names = [re.sub(r"[^A-Za-z0-9.-]+", "_", part.part).strip("._")[:80] for part in parts]
    return [f"{PIECES}/{number:02d}-{name}.onnx" for number, name in enumerate(names)]


def _check_installed() -> None:
    onnx_runtime()
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise MissingExtra("exporting a cascade to ONNX", "export")


def exported_exits(cascade: Cascade, exits: Iterable[str] | None = None) -> tuple[str, ...]:
    """The exits of the policy and of the certified operating points, and those named, in order.

    Raises:
        PolicyError: no such exit.
    """
    policies = (cascade.policy, *(point.policy for point in cascade.operating_points))
    needed = {name for policy in policies for name in policy.exits}
    for name in exits or ():
        if name not in cascade.exits:
            raise PolicyError(unknown("exit", name, cascade.exits, where="this cascade"))
        needed.add(name)
    return tuple(name for name in cascade.exits if name in needed)


def _ensembles(cascade: Cascade, exits: Iterable[str]) -> dict[str, Ensemble]:
    """The ensembles among the exits."""
    stages = {name: cascade.stages[name] for name in exits}
    return {n: stage.ensemble for n, stage in stages.items() if isinstance(stage, EnsembleStage)}


def _module_parts(cascade: Cascade, exits: Sequence[str], image: Tensor) -> list[ModulePart]:
    """All parts of the exits, in an order in which they can run.

    Raises:
        ModelError: a network that cannot be partitioned, or preprocessing that cannot be put into a
            graph.
    """
    ensembles = _ensembles(cascade, exits)
    plain = [name for name in exits if name not in ensembles]
    members = [name for ensemble in ensembles.values() for name in ensemble.exits]
    needed, stages = dict.fromkeys([*plain, *members]), cascade.stages
    parts: list[ModulePart] = []
    for name, (network, inside) in _networks(stages, needed).items():
        parts += parts_of_network(name, network, inside, image)
    whole = (name for name in needed if not isinstance(stages[name], ExitStage))
    return [*parts, *(part_of_model(name, stages[name], image) for name in whole)]


def image_of(cascade: Cascade, exits: Sequence[str], size: tuple[int, int] | None = None) -> Tensor:
    """A black image as the exported cascade takes it.

    By default it has the size to which the largest stage resizes images before it crops them, so
    that only smaller stages resize.

    Raises:
        ModelError: no stage sets a size.
    """
    found = [image for name in exits for image in _input_images(cascade.stages[name])]
    if not found:
        raise ModelError(
            "an exported cascade takes images of one shape, found no stage that sets one: build it "
            "from the result of a search, or give `image`, one sample"
        )
    largest = max(found, key=lambda image: image.numel())
    if size is None:
        return largest
    return largest.new_zeros((*largest.shape[:-2], *size))


def _networks(
    stages: Mapping[str, Stage], exits: Iterable[str]
) -> dict[str, tuple[ExitNetwork, set[str]]]:
    """Networks by name, each with those of the exits that it holds, its saver's included."""
    inside = {n: s for n, s in stages.items() if isinstance(s, ExitStage)}
    by_name = {s.name: s.network for s in inside.values() if isinstance(s.network, ExitNetwork)}
    networks: dict[str, tuple[ExitNetwork, set[str]]] = {}
    for exit in exits:
        if exit in inside:
            root = str(inside[exit].origin["root"])
            name = root if root in by_name else inside[exit].name
            networks.setdefault(name, (by_name[name], set()))[1].add(exit)
    return networks


def _input_images(stage: Stage) -> list[Tensor]:
    """A black image of the size that a stage sets, or a sample of the kind that it was scored on,
    if it is known; one per member of an ensemble."""
    if isinstance(stage, EnsembleStage):
        return [image for member in stage.members.values() for image in _input_images(member)]
    preprocess = stage.preprocess
    if preprocess is not None and preprocess.size is not None:
        sides = (math.floor(side / preprocess.crop) for side in preprocess.size)
        return [torch.zeros(len(preprocess.mean), *sides, dtype=torch.uint8)]
    if isinstance(stage, ExitStage):
        return [stage.network.image.cpu()]
    known = InputKind.of(stage.origin)
    return [] if known is None else [torch.zeros(known.shape, dtype=known.dtype)]
