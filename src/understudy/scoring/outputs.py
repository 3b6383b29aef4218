"""The outputs of exits: of some samples, before scoring (probe), and as shards on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from understudy.errors import DataError, ModelError, UnderstudyError, listed
from understudy.exit import Detail, Exit
from understudy.files import read_json, write_json
from understudy.folders import remove_folder
from understudy.nn.confidence_functions import confidence_functions
from understudy.nn.cost import count_parts
from understudy.nn.identity import answering, identity_of, note_input
from understudy.nn.preprocess import Resizing
from understudy.nn.stage import EMPTY, Images, Stage, resizings_of
from understudy.parquet_files import ERRORS, read_parquet, write_parquet
from understudy.scores import ScoreTable
from understudy.scoring.repeatability import check_repeatable
from understudy.sitting import Sitting
from understudy.unfinished import Plan, keep_plan, own_folder, remove_finished
from understudy.zoo.data import Array

TOP = 5
_FLOAT16 = torch.finfo(torch.float16)


@dataclass(frozen=True, eq=False)
class ExitOutputs:
    """Predictions, confidences, top classes and, where they are kept, logits of n samples.

    Shapes: `prediction` (n,) int32, `confidence` by name (n,) float32, `detail` (n, K) and (n, C).
    """

    prediction: Array
    confidence: dict[str, Array]
    detail: Detail

    def __len__(self) -> int:
        return len(self.prediction)

    def rows(self, index: Array) -> ExitOutputs:
        """The same for some of the samples."""
        confidence = {name: values[index] for name, values in self.confidence.items()}
        return ExitOutputs(self.prediction[index], confidence, self.detail.rows(index))

    @staticmethod
    def concatenate(pieces: Sequence[ExitOutputs]) -> ExitOutputs:
        """Pieces one after another."""

        def join(of: Callable[[ExitOutputs], Array | None]) -> Array:
            return np.concatenate([np.asarray(of(piece)) for piece in pieces])

        kept = all(piece.detail.logits is not None for piece in pieces)
        return ExitOutputs(
            join(lambda outputs: outputs.prediction),
            {
                name: np.concatenate([outputs.confidence[name] for outputs in pieces])
                for name in pieces[0].confidence
            },
            Detail(
                join(lambda outputs: outputs.detail.top_classes),
                join(lambda outputs: outputs.detail.top_probabilities),
                join(lambda outputs: outputs.detail.logits) if kept else None,
            ),
        )


@torch.inference_mode()
def outputs_of(logits: Tensor, *, keep_logits: bool) -> ExitOutputs:
    """Prediction, all confidences, the top five classes and the logits, of finite logits (n, C).

    Logits are kept as float16, limited to its range.

    >>> outputs = outputs_of(torch.tensor([[0.0, 2.0, 1.0]]), keep_logits=False)
    >>> outputs.prediction.tolist(), outputs.detail.top_classes.tolist()
    ([1], [[1, 2, 0]])
    """
    probability, order = logits.float().softmax(1).sort(dim=1, descending=True, stable=True)
    top = min(TOP, logits.shape[1])
    half = logits.clamp(_FLOAT16.min, _FLOAT16.max).half() if keep_logits else None
    return ExitOutputs(
        prediction=logits.argmax(1).to(torch.int32).cpu().numpy(),
        confidence={
            name: function(logits).cpu().numpy() for name, function in confidence_functions.items()
        },
        detail=Detail(
            order[:, :top].to(torch.int32).cpu().numpy(),
            probability[:, :top].cpu().numpy(),
            None if half is None else half.cpu().numpy(),
        ),
    )


def run_stages(
    stages: Mapping[str, Stage], images: Images, *, ids: Sequence[str], keep_logits: bool
) -> Iterator[tuple[str, ExitOutputs]]:
    """The outputs of each stage of one source for a batch, in order; shared work is run once.

    Raises:
        ModelError: logits that are not finite; the message names the exit and the samples.
    """
    state = EMPTY
    for name, stage in stages.items():
        logits, _, state = stage.run(images, state)
        check_finite(logits, model=name, ids=ids)
        yield name, outputs_of(logits, keep_logits=keep_logits)


def check_finite(logits: Tensor, *, model: str, ids: Sequence[str]) -> None:
    """Refuse NaN and infinite logits, for which no confidence is defined.

    Raises:
        ModelError: the message names the model and the samples.
    """
    wrong = (~torch.isfinite(logits).all(1)).nonzero().flatten().tolist()
    if wrong:
        raise ModelError(
            f"logits are finite, {model!r} gives NaN or infinity for {len(wrong)} of {len(ids)} "
            f"samples of a batch ({listed([ids[row] for row in wrong])}): check its weights, its "
            "preprocessing, or run it in float32"
        )


@dataclass(frozen=True)
class Probe:
    """One source of exits run on some images: its exits, MACs per sample by part, classes, and how
    it resizes images."""

    exits: tuple[Exit, ...]
    macs: Mapping[str, float]
    classes: int
    resizings: frozenset[Resizing | None]


def probe(stages: Mapping[str, Stage], images: Images) -> Probe:
    """Run the stages of one source on some images, in order, and count the MACs of each part.

    Raises:
        ModelError: one returns no logits (N, C), or other classes than the others; its logits
            depend on chance, or on the rest of a batch.
        DataError: one cannot take such images.
    """
    image = images[0]
    with answering(next(iter(stages))):
        counts = count_parts(stages, image)
    exits: list[Exit] = []
    classes: dict[str, int] = {}
    state = EMPTY
    for name, stage in stages.items():
        logits, _, state = stage.run([image], state)
        classes[name] = int(logits.shape[1])
        parts = tuple(dict.fromkeys(part.part for part in stage.parts(name)))
        note_input(stage, image)
        origin = {
            **identity_of(stage),
            "classes": classes[name],
            "parameters": sum(parameter.numel() for parameter in stage.parameters()),
            "uncounted": sorted({name for part in parts for name in counts[part].uncounted}),
        }
        exits.append(Exit(name, parts, origin))
    check_repeatable(stages, images)
    macs = {part: count.total for part, count in counts.items()}
    return Probe(tuple(exits), macs, common_classes(classes), resizings_of(stages.values()))


def common_classes(classes: Mapping[str, int]) -> int:
    """The number of classes that all models have.

    Raises:
        ModelError: they differ.
    """
    if len(set(classes.values())) > 1:
        raise ModelError(
            f"all models of a table have the same classes, found {dict(classes)}: "
            "leave some out, or load them with ?classes=N and a fitting checkpoint"
        )
    return next(iter(classes.values()))


def exits_of(probes: Mapping[str, Probe]) -> tuple[Exit, ...]:
    """The exits of all sources, in order."""
    return tuple(exit for probe in probes.values() for exit in probe.exits)


def table_of(
    probes: Mapping[str, Probe],
    outputs: Mapping[str, ExitOutputs],
    labels: Array | None,
    *,
    classes: Sequence[str] | None,
    costs: Mapping[str, Any] | None = None,
    **more: Any,
) -> ScoreTable:
    """The table of all exits' outputs, exit by exit.

    Args:
        probes: what is known of the exits, by source.
        outputs: their outputs, by exit.
        labels: (N,) class numbers, or (N, K) where samples have several; or None.
        classes: the names of the classes.
        costs: {unit: {part: cost}}; the MACs of the probes by default.
        more: ids, groups, split and provenance, as in `ScoreTable.from_predictions`.

    Raises:
        TableError: ids, groups or splits that do not fit.
    """
    exits = exits_of(probes)
    macs = {part: cost for probe in probes.values() for part, cost in probe.macs.items()}
    table = ScoreTable.from_predictions(
        {name: (rows.prediction, rows.confidence) for name, rows in outputs.items()},
        labels,
        costs={"MACs": macs} if costs is None else costs,
        parts={exit.name: exit.parts for exit in exits},
        **more,
    )
    return replace(
        table,
        exits=exits,
        classes=None if classes is None else tuple(classes),
        details={name: rows.detail for name, rows in outputs.items()},
    )


FORMAT, VERSION = "understudy.partial", 1
SHARD_BATCHES = 8


class Shards:
    """The folder next to a table that holds an unfinished run.

    Args:
        folder: what `Shards.of` locked.
        plan: plain JSON that determines the scores; an older run resumes under the same one.
        check: called with the plan of an older run before they are compared.

    Raises:
        DataError: an older run of another plan is in the way.
        UnderstudyError: the place cannot be written.
    """

    def __init__(
        self, folder: Path, plan: Plan, *, check: Callable[[Plan], None] = lambda _: None
    ) -> None:
        self.folder = folder
        what = "an unfinished run"
        keep_plan(self.folder, plan, kind=FORMAT, newest=VERSION, what=what, check=check)

    @staticmethod
    @contextmanager
    def of(
        table: Path, plan: Plan, *, check: Callable[[Plan], None] = lambda _: None
    ) -> Iterator[Shards]:
        """The shards of a run, in a folder that no other process uses while the block runs.

        Runs that score other models work beside this one, in folders of their own.

        Raises:
            InUse: another process scores one of the models.
            DataError: what the class raises.
        """
        with own_folder(table, plan, partial(Shards, check=check), beside=_other_models) as shards:
            yield shards

    @staticmethod
    def remove_finished(table: Path, written: ScoreTable) -> None:
        """Delete what runs have left that were killed after they had written their table."""
        weights = {exit.name: exit.origin.get("weights_hash") for exit in written.exits}
        remove_finished(
            table, lambda plan: plan.get("weights", {"": ""}).items() <= weights.items()
        )

    def sitting(self, unit: str) -> Sitting | None:
        """The times measured in a unit; None where they are not, or the file is damaged."""
        try:
            return Sitting.from_dict(read_json(self._times(unit), DataError, "times"))
        except UnderstudyError:
            return None

    def keep_sitting(self, sitting: Sitting) -> None:
        """Keep the times measured in a unit."""
        write_json(self._times(sitting.unit), sitting.to_dict())

    def has(self, exit: int, shard: int) -> bool:
        """Whether a shard is done; one that is damaged is not."""
        try:
            read_parquet(self._file(exit, shard), ["position"])
        except ERRORS:
            return False
        return True

    def write(self, exit: int, shard: int, positions: Array, outputs: ExitOutputs | None) -> None:
        """Keep a shard, whole or not at all; None where none of its images could be decoded."""
        write_parquet(_frame(positions, outputs), self._file(exit, shard), compression="lz4")

    def read(self, exit: int, shards: int) -> tuple[Array, ExitOutputs]:
        """Positions (n,) and the exit's outputs there, from its first shards.

        Raises:
            DataError: a shard is damaged.
        """
        frames = []
        for file in (self._file(exit, shard) for shard in range(shards)):
            try:
                frames.append(read_parquet(file))
            except ERRORS as error:
                raise DataError(
                    f"unfinished work is whole, {str(file)!r} was damaged while scoring: score "
                    "again, which repairs it"
                ) from error
        frames = [frame for frame in frames if len(frame)]
        positions = np.concatenate([frame["position"].to_numpy() for frame in frames])
        return positions, ExitOutputs.concatenate([_outputs(frame) for frame in frames])

    def remove(self) -> None:
        """Delete the folder, when the table is written."""
        remove_folder(self.folder)

    def remove_if_empty(self) -> None:
        """Delete the folder where no shard is done yet: there is nothing to resume."""
        if not any(self.folder.glob("*/*.parquet")):
            self.remove()

    def _times(self, unit: str) -> Path:
        return self.folder / f"{unit}.json"

    def _file(self, exit: int, shard: int) -> Path:
        return self.folder / f"{exit:03}" / f"{shard:05}.parquet"


def _other_models(plan: Plan, other: Plan) -> bool:
    return not set(plan["models"]) & set(other.get("models", plan["models"]))


def _frame(positions: Array, outputs: ExitOutputs | None) -> pl.DataFrame:
    columns = {"position": pl.Series(positions, dtype=pl.Int64)}
    if outputs is None:
        return pl.DataFrame(columns)
    detail = outputs.detail
    columns["prediction"] = pl.Series(outputs.prediction)
    columns |= {name: pl.Series(values) for name, values in outputs.confidence.items()}
    columns["top_class"] = _rows(detail.top_classes, pl.Int32)
    columns["top_probability"] = _rows(detail.top_probabilities, pl.Float32)
    if detail.logits is not None:
        columns["logits"] = _rows(detail.logits.view(np.uint16), pl.UInt16)
    return pl.DataFrame(columns)


def _outputs(frame: pl.DataFrame) -> ExitOutputs:
    logits = frame["logits"].to_numpy().view(np.float16) if "logits" in frame.columns else None
    return ExitOutputs(
        frame["prediction"].to_numpy(),
        {name: frame[name].to_numpy() for name in confidence_functions},
        Detail(frame["top_class"].to_numpy(), frame["top_probability"].to_numpy(), logits),
    )


def _rows(values: Array, dtype: Any) -> pl.Series:
    return pl.Series(np.ascontiguousarray(values), dtype=pl.Array(dtype, values.shape[1]))
