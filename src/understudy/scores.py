"""The score table: the output of every exit for every sample. Frozen; everything else reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from understudy.class_outputs import (
    ClassOutputs,
    array_of,
    class_codes,
    is_frame,
    names_of_classes,
    one_column,
)
from understudy.confidence_functions import (
    CONFIDENCES,
    LEARNED,
    checked_logits,
    confidences_of,
    energy,
    log_probabilities,
)
from understudy.errors import TableError, unknown
from understudy.exit import Array, Detail, Exit, LazyDetails
from understudy.label_sets import checked_sets, coded_labels, flat_labels, is_right, with_labels
from understudy.priced_exits import PricedExits
from understudy.reference import candidates, most_accurate, reference_words
from understudy.short_repr import clipped, cut_list
from understudy.sitting import Sitting
from understudy.split import ALL, SPLITS, assign_splits
from understudy.table_validation import (
    NO_LABEL,
    Costs,
    check_cost_names,
    check_exit_names,
    check_ids,
    check_labels,
    check_numbers,
    check_predictions,
    check_shapes,
    class_numbers,
    confidence_rows,
    costs_by_unit,
    frozen,
    label_numbers,
    read_only,
    read_only_costs,
    stacked,
)
from understudy.tabular import Tabular

__all__ = ["Array", "Costs", "Detail", "Exit", "ScoreTable"]

Labels = npt.ArrayLike | Sequence[int | str | None] | None


@dataclass(frozen=True, eq=False)
class ScoreTable(PricedExits, Tabular):
    """The outputs of E exits for N samples. Arrays are (E, N), exits in `exits` order.

    Nobody can change a table: arrays that the caller could write to are copied. It can be pickled,
    which reads its details from disk.

    Attributes:
        exits: The exits, with the parts they run.
        prediction: (E, N) integers, the class that each exit predicts.
        confidence: by name, (E, N) float32 or float64; higher is more confident, any real number.
        label: (N,) integers, -1 where one is missing; None where all are. The reference's answers
            take the place of missing labels (`right`).
        ids: (N,) text, unique: relative path, key column or row number.
        split: (N,) small integers, positions in `SPLITS` (tune, certify, test).
        costs: unit -> part -> cost per sample. A sample pays the union of the parts it visited.
        times: the same for measured times (ms); kept apart, outside `hash`.
        classes: the names of the classes, or None where they are not known.
        details: by exit, top classes and logits; may load from disk on first use.
        provenance: plain JSON: data, library versions, device, how samples were split.
        sittings: how the times were measured, and their spread; none for times of older tables.
        label_sets: (N, K) integers padded with -1, where samples have several right answers;
            `label` is then the first of each row. None where each has one.

    >>> import numpy as np
    >>> table = ScoreTable.from_probabilities(
    ...     {"tiny": np.array([[.9, .1], [.4, .6]]), "big": np.array([[.8, .2], [.7, .3]])},
    ...     labels=[0, 0], costs={"MACs": {"tiny": 1.0, "big": 10.0}})
    >>> table.prediction.tolist()
    [[0, 1], [0, 0]]

    Raises:
        TableError: shapes that do not agree, NaN, names or ids that repeat, negative costs.
    """

    exits: tuple[Exit, ...]
    prediction: Array
    confidence: Mapping[str, Array]
    label: Array | None
    ids: Array
    split: Array
    costs: Costs
    times: Costs = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    details: Mapping[str, Detail] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sittings: tuple[Sitting, ...] = ()
    label_sets: Array | None = None

    def __post_init__(self) -> None:
        set_field = partial(object.__setattr__, self)
        set_field("exits", tuple(self.exits))
        set_field("prediction", class_numbers(self.prediction, "predictions"))
        rows = {name: confidence_rows(rows, name) for name, rows in self.confidence.items()}
        set_field("confidence", MappingProxyType(rows))
        if self.label is not None:
            set_field("label", label_numbers(self.label))
        set_field("ids", read_only(self.ids, object))
        if self.label_sets is not None:
            self._set_label_sets(self.label_sets)
        set_field("split", read_only(self.split, np.uint8))
        set_field("provenance", MappingProxyType(dict(self.provenance)))
        check_shapes(
            (len(self.exits), len(self.ids)), per_sample={"label": self.label, "split": self.split}
        )
        check_ids(self.ids)
        self._check_exits()
        labels = self.label if self.label_sets is None else self.label_sets
        check_labels(labels, None if self.classes is None else len(self.classes))
        set_field("costs", read_only_costs(self.costs))
        set_field("times", read_only_costs(self.times))

    def _check_exits(self) -> None:
        check_exit_names(self.names)
        check_shapes(
            (len(self.exits), len(self.ids)),
            per_exit={
                "prediction": self.prediction,
                **{f"confidence {name!r}": values for name, values in self.confidence.items()},
            },
        )
        check_predictions(self.prediction, self.names)
        check_numbers(self.confidence, self.names)

    def _set_label_sets(self, sets: Array) -> None:
        checked = checked_sets(sets, self.label, len(self.ids))
        object.__setattr__(self, "label", label_numbers(np.asarray(sets)[:, 0]))
        object.__setattr__(self, "label_sets", checked)

    # -- constructors ---------------------------------------------------------------------------

    @staticmethod
    def from_probabilities(
        probabilities: Mapping[str, Any],
        labels: Labels,
        *,
        costs: Mapping[str, Any] | None = None,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        split: Mapping[str, float] | Sequence[str] | None = None,
        parts: Mapping[str, Sequence[str]] | None = None,
    ) -> ScoreTable:
        """A table from class probabilities that are already in memory.

        Without costs a saving is the share of samples that the large model need not answer: the
        unit is "calls of NAME", in which the most accurate exit on tune costs 1, the others 0.

        Args:
            probabilities: exit name -> (N, C), rows summing to 1: an array, or a data frame of
                pandas, Polars or Arrow whose columns are the classes.
            labels: (N,) class numbers or names, None or -1 where one is missing; or None without
                any. A list of several is a set of right answers.
            costs: {unit: {part: cost}}, or {part: cost} for MACs.
            classes: (C,) the names of the classes, in the order of the columns; by default those
                of the first data frame. Other data frames are put into their order.
            ids: (N,) unique names of the samples; row numbers by default.
            groups: (N,) names; samples of one group share a split.
            split: shares of tune, certify and test, or (N,) split names; by default
                .2, .6 and .2, or .2 and .8 without test below 5,000 samples.
            parts: exit name -> the parts it runs, where that is not itself alone.

        >>> table = ScoreTable.from_probabilities(
        ...     {"tiny": [[.9, .1], [.4, .6]], "big": [[.8, .2], [.7, .3]]}, ["cat", "cat"],
        ...     classes=["cat", "dog"])
        >>> table.label.tolist(), table.classes, table.units
        ([0, 0], ('cat', 'dog'), ('calls of big',))

        Raises:
            TableError: shapes or classes that do not agree, rows that are no probabilities, labels
                out of range; no costs where no labels tell which exit is the large one.
        """
        outputs = ClassOutputs.of(probabilities, classes=classes)
        logs = {name: log_probabilities(rows, name) for name, rows in outputs.rows.items()}
        found = {name: confidences_of(rows) for name, rows in logs.items()}
        return _of_outputs(
            outputs,
            logs,
            found,
            labels,
            costs=costs,
            ids=ids,
            groups=groups,
            split=split,
            parts=parts,
        )

    @staticmethod
    def from_logits(logits: Mapping[str, Any], labels: Labels, **options: Any) -> ScoreTable:
        """A table from logits that are already in memory: exit name -> (N, C), not normalised.

        It has the confidence "energy" besides. The other arguments, and what data frames mean, are
        as for `from_probabilities`.

        >>> table = ScoreTable.from_logits(
        ...     {"tiny": [[2., -1.], [0., 1.]], "big": [[3., 0.], [2., 1.]]}, [0, 0],
        ...     costs={"tiny": 1, "big": 10})
        >>> table.prediction.tolist()
        [[0, 1], [0, 0]]

        Raises:
            TableError: as there, and where the rows are probabilities.
        """
        outputs = ClassOutputs.of(logits, classes=options.pop("classes", None))
        rows = {name: checked_logits(values, name) for name, values in outputs.rows.items()}
        found = {}
        for name, values in rows.items():
            energies = energy(values)
            known = confidences_of(values - energies[:, None])
            found[name] = {**known, "energy": energies.astype(np.float32)}
        return _of_outputs(outputs, rows, found, labels, **options)

    @staticmethod
    def from_predictions(
        predictions: Mapping[str, tuple[npt.ArrayLike, Any]],
        labels: Labels,
        *,
        costs: Mapping[str, Any] | None = None,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        split: Mapping[str, float] | Sequence[str] | None = None,
        parts: Mapping[str, Sequence[str]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> ScoreTable:
        """A table from predictions made elsewhere: exit name -> (prediction, confidence).

        `confidence` is (N,), taken as max softmax, or {confidence name: (N,)}, or a data frame with
        a column for each confidence. Whatever is (N,) may be a list, an array, a series of pandas
        or Polars, an array of Arrow, or a data frame with one column. Predictions and
        labels are class numbers or names; names are numbered in sorted order unless `classes` are
        given. The other arguments are those of
        `from_probabilities`.

        >>> table = ScoreTable.from_predictions(
        ...     {"tiny": ([0, 1], [.9, .6]), "big": ([0, 0], [.8, .7])}, [0, 0],
        ...     costs={"tiny": 1, "big": 10})
        >>> table.names
        ('tiny', 'big')
        """
        predictions = {
            name: (one_column(answer, "predictions"), _by_confidence(value))
            for name, (answer, value) in predictions.items()
        }
        labels, ids, groups = (
            one_column(values, what)
            for values, what in ((labels, "labels"), (ids, "ids"), (groups, "groups"))
        )
        split = one_column(split, "splits")
        if classes is None:
            answers = [answer for answer, _ in predictions.values()]
            classes = names_of_classes(
                answers if labels is None else [*answers, flat_labels(labels)]
            )
        rows = _coded(predictions, classes)
        shared = set.intersection(*(set(values) for _, values in rows.values()))
        if not shared:
            raise TableError("the exits share no confidence: give each exit at least one in common")
        count, first = next((len(answer), values) for answer, values in rows.values())
        keys = np.array([str(key) for key in (range(count) if ids is None else ids)], dtype=object)
        codes, rule = assign_splits(keys, split, groups=groups)
        label = None if labels is None else np.asarray(coded_labels(labels, classes))
        several = label is not None and label.ndim == 2
        exits = tuple(Exit(name, tuple((parts or {}).get(name, ()))) for name in rows)
        units = {} if costs is None else costs_by_unit(costs)
        table = ScoreTable(
            exits=exits,
            prediction=stacked({name: answer for name, (answer, _) in rows.items()}, "predictions"),
            confidence={
                key: stacked({name: values[key] for name, (_, values) in rows.items()}, key)
                for key in first
                if key in shared
            },
            label=None if label is None or several else label_numbers(label),
            ids=keys,
            split=codes,
            costs=units,
            classes=None if classes is None else tuple(map(str, classes)),
            provenance={**(provenance or {}), "split": rule},
            label_sets=label if several else None,
        )
        check_cost_names(units, (part for exit in exits for part in exit.parts))
        return table._with_calls() if costs is None else table

    def _with_calls(self) -> ScoreTable:
        """The table with the calls of its most accurate exit on tune as costs."""
        right = None if self.shares_parts else self._right_on_tune([*range(len(self.exits))])
        if right is None:
            raise TableError(
                "without costs, calls of the most accurate exit on tune are counted, and "
                + ("exits share parts" if self.shares_parts else "labels do not tell which it is")
                + ": give costs={NAME: NUMBER, ...}, or --cost NAME=NUMBER for each"
            )
        big = self.names[most_accurate([*range(len(right))], right, -np.arange(float(len(right))))]
        calls = {name: float(name == big) for name in self.names}
        return replace(self, costs={f"calls of {big}": calls})

    def __reduce__(self) -> tuple[Callable[[], ScoreTable], tuple[()]]:
        """The table for another process, with details that lie on disk."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("confidence", "details", "provenance"):
            values[name] = dict(values[name])
        for name in ("costs", "times"):
            values[name] = {unit: dict(parts) for unit, parts in values[name].items()}
        return partial(ScoreTable, **values), ()

    def __repr__(self) -> str:
        counts = np.bincount(self.split, minlength=len(SPLITS)).tolist()
        splits = ", ".join(f"{name} {k:,}" for name, k in zip(SPLITS, counts, strict=True) if k)
        exits = f"{len(self.exits)} exit{'s' * (len(self.exits) > 1)}"
        names, units = (cut_list(map(clipped, some), 100) for some in (self.names, self.units))
        labels = "" if self.labelled.all() else f", {int(self.labelled.sum()):,} with a label"
        labels += "" if self.label_sets is None else ", several right answers"
        return f"<ScoreTable: {exits} ({names}), {len(self):,} samples ({splits}){labels}; {units}>"

    def columns(self) -> dict[str, list[Any]]:
        """A row per exit: its accuracy on all samples (None unless all have a label), its costs."""
        whole = bool(self.labelled.all())
        right = self._has_label_right.mean(1).tolist() if whole else [None] * len(self.exits)
        prices = {**self.costs, **self.times}
        return {
            "exit": list(self.names),
            "accuracy": right,
            **{
                f"cost {unit}": [
                    self.cost_of([exit.name], unit) if set(exit.parts) <= set(parts) else None
                    for exit in self.exits
                ]
                for unit, parts in prices.items()
            },
        }

    # -- reading ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of a search: tune, certify, and test where it has samples."""
        return SPLITS if (self.split == SPLITS.index("test")).any() else SPLITS[:-1]

    def scores(self, name: str) -> Array:
        """One confidence, (E, N).

        Raises:
            TableError: no such confidence.
        """
        if name == LEARNED and LEARNED not in self.confidence:
            raise TableError(
                f"the confidence {LEARNED!r} is learned by a search and kept in its result, found "
                "a table without it: take `result.with_fitted(table)`"
            )
        if name not in self.confidence:
            raise TableError(unknown("confidence", name, self.confidence, where="this table"))
        return self.confidence[name]

    def reference(self, name: str | None = None, *, unit: str | None = None) -> str:
        """The exit that others are compared with: the one named, or the most accurate on tune.

        Of equally accurate ones it is the cheapest; among the exits of a network, the network.
        Where labels are missing on which exits disagree it is the costliest. All samples count in
        a table without tune samples, so name the reference for a part of a table.

        Raises:
            TableError: no such exit.
        """
        if name is not None:
            return self.names[self.index(name)]
        rows, costs = candidates(self.exits), self.exit_costs(self.unit(unit))
        right = self._right_on_tune(rows) if len(rows) > 1 else None
        if right is None:
            return self.names[max(rows, key=costs.__getitem__)]
        return self.names[most_accurate(rows, right, costs)]

    def reference_words(self, name: str | None = None, *, unit: str | None = None) -> str:
        """The reference in one line, with its accuracy on tune where labels tell it.

        >>> table = ScoreTable.from_predictions(
        ...     {"tiny": ([0, 1], [.9, .6]), "big": ([0, 0], [.8, .7])}, [0, 0],
        ...     costs={"tiny": 1, "big": 10}, split=["tune", "tune"])
        >>> table.reference_words()
        'reference big: the most accurate on tune (100.0 %)'
        """
        tune = self.split == SPLITS.index("tune")
        found: dict[str, float] | None = {} if self.labelled.any() else None
        if tune.any() and self.labelled[tune].all():
            right = self._has_label_right[:, tune].mean(1)
            exits = enumerate(self.exits)
            found = {exit.name: float(right[row]) for row, exit in exits if not exit.is_ensemble}
        costs = dict(zip(self.names, self.exit_costs(self.unit(unit)).tolist(), strict=True))
        name = self.reference(name, unit=unit)
        return reference_words(name, found, costs, exits=self.exits, split="tune")

    def _right_on_tune(self, rows: list[int]) -> Array | None:
        """How many tune samples each exit has right, (E,); None where labels do not tell which of
        `rows` are better."""
        if self.label is None:
            return None
        tune = np.flatnonzero(self.split == SPLITS.index("tune"))
        where = tune if len(tune) else np.arange(len(self))
        answers, known = self.prediction[:, where], self.labelled[where]
        if not known.any() or (answers[rows] != answers[rows[0]])[:, ~known].any():
            return None
        return np.asarray(self._has_label_right[:, where[known]].sum(1))

    @cached_property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Which samples have a label, (N,)."""
        if self.label is None:
            return np.zeros(len(self), bool)
        return np.asarray(self.label != NO_LABEL)

    def label_counts(self) -> dict[str, int]:
        """How many samples of each split have a label."""
        count = np.bincount(self.split[self.labelled], minlength=len(SPLITS))
        return dict(zip(SPLITS, count.tolist(), strict=True))

    @cached_property
    def _has_label_right(self) -> npt.NDArray[np.bool_]:
        """Which answers are among their samples' labels, (E, N): none where a label is missing."""
        if self.label is None:
            return frozen(np.zeros(self.prediction.shape, bool))
        return frozen(is_right(self.prediction, self._sets(self.label)))

    @property
    def label_rows(self) -> Array:
        """All right answers of every sample, (N, K), padded with -1 as where none is known."""
        return self._sets(np.full(len(self), NO_LABEL) if self.label is None else self.label)

    def _sets(self, label: Array) -> Array:
        """The labels as sets, (N, K)."""
        return label[:, None] if self.label_sets is None else self.label_sets

    def right(
        self, reference: str, exits: int | Sequence[int] | slice = slice(None)
    ) -> npt.NDArray[np.bool_]:
        """Which answers are right, (E, N), or those of some exits alone, by position.

        An answer is right if it is the label, or one of several. Where a label is missing the
        reference's answer takes its place: a cascade that answers as the reference does is then as
        right as it; one that answers otherwise loses. So the drop is that of complete labels where
        all samples on which exits differ have one, and a bound from above elsewhere.

        >>> table = ScoreTable.from_predictions(
        ...     {"tiny": ([0, 1, 1], [.9, .6, .7]), "big": ([0, 0, 2], [.8, .7, .9])},
        ...     [None, 1, [0, 2]], costs={"tiny": 1, "big": 10})
        >>> table.right("big").tolist()
        [[True, True, False], [True, False, True]]
        >>> table.right("big", 0).tolist()
        [True, True, False]
        """
        known = self._has_label_right[exits]
        if self.labelled.all():
            return known
        agrees = self.prediction[exits] == self.prediction[self.index(reference)]
        return np.where(self.labelled, known, agrees)

    def right_answers(self, reference: str) -> Array:
        """The right answers of every sample, (N, K) padded with -1: its labels, and the
        reference's answer where they are missing."""
        answers: Array = self.prediction[self.index(reference)]
        if self.label is None:
            return answers[:, None]
        sets = self._sets(self.label)
        if self.labelled.all():
            return sets
        filled = sets.copy()
        filled[~self.labelled, 0] = answers[~self.labelled]
        return filled

    def needs_label(self, reference: str, prediction: Array) -> npt.NDArray[np.bool_]:
        """Where predictions (..., N) differ from the reference's and no label tells who is right.

        These are the samples whose labels are needed for the drop of those predictions.
        """
        differs = prediction != self.prediction[self.index(reference)]
        return np.asarray(differs & ~self.labelled)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over exits, predictions, confidences, labels, ids, split and costs."""
        return table_hash(self.exits, self, self.prediction, self.confidence)

    # -- sub-tables ---------------------------------------------------------------------------

    def on(self, split: str) -> ScoreTable:
        """The sub-table of one split; `all` is the table itself.

        Raises:
            TableError: no such split, or no sample in it.
        """
        if split == ALL:
            return self
        if split not in SPLITS:
            raise TableError(unknown("split", split, [*SPLITS, ALL]))
        rows = np.flatnonzero(self.split == SPLITS.index(split))
        if not len(rows):
            raise TableError(
                f"the split {split!r} is empty ({len(self)} samples in all): give it a share, "
                "for example --split tune=.2,certify=.6,test=.2"
            )
        return self.rows(rows)

    def of_class(self, name: str) -> ScoreTable:
        """The samples of which a class is a right answer, by its name or, where classes have none,
        its number.

        Raises:
            TableError: no labels, no such class, or no sample of it.
        """
        if self.label is None:
            raise TableError(
                f"a budget for a class needs labels, this table has none: drop {name!r}"
            )
        if not self.labelled.all():
            raise TableError(
                f"a budget for a class needs the label of every sample, "
                f"{int((~self.labelled).sum()):,} of {len(self):,} have none: add them "
                f"(`understudy import-labels`), or drop {name!r}"
            )
        names = self.classes or [str(number) for number in range(int(self.label_rows.max()) + 1)]
        if name not in names:
            raise TableError(unknown("class", name, names))
        index = np.flatnonzero((self.label_rows == list(names).index(name)).any(axis=1))
        if not len(index):
            raise TableError(f"a class with a budget has samples, {name!r} has none among these")
        return self.rows(index)

    def rows(self, index: Array | slice) -> ScoreTable:
        """The sub-table of some samples, by position; a slice shares the memory of this table."""
        return replace(
            self,
            prediction=frozen(self.prediction[:, index]),
            confidence={name: frozen(rows[:, index]) for name, rows in self.confidence.items()},
            label=None if self.label is None else self.label[index],
            ids=self.ids[index],
            split=self.split[index],
            details=LazyDetails.of(self.details).rows(index),
            label_sets=None if self.label_sets is None else self.label_sets[index],
        )

    def with_labels(
        self, labels: Mapping[str, SupportsIndex | Iterable[SupportsIndex]]
    ) -> ScoreTable:
        """The table with further labels: sample id -> class number, or several; none adds nothing.

        >>> table = ScoreTable.from_predictions(
        ...     {"tiny": ([0, 1], [.9, .6]), "big": ([0, 0], [.8, .7])}, None, ids=["a", "b"],
        ...     costs={"tiny": 1, "big": 10})
        >>> table.with_labels({"b": 1}).label.tolist()
        [-1, 1]

        Raises:
            TableError: unknown ids, numbers that are no classes, or labels other than those the
                table has.
        """
        older = np.full((len(self), 1), NO_LABEL) if self.label is None else self._sets(self.label)
        sets = with_labels(older, self.ids, labels)
        return replace(self, label=None, label_sets=sets)

    def relabelled(
        self, labels: Mapping[str, SupportsIndex | Iterable[SupportsIndex]]
    ) -> ScoreTable:
        """The samples that have a label among these, with it in place of their own.

        >>> table = ScoreTable.from_predictions(
        ...     {"tiny": ([0, 1], [.9, .6]), "big": ([0, 0], [.8, .7])}, [0, 0], ids=["a", "b"],
        ...     costs={"tiny": 1, "big": 10})
        >>> judged = table.relabelled({"a": [], "b": [0, 1]})
        >>> judged.ids.tolist(), judged.right("big").tolist()
        (['b'], [[True], [True]])

        Raises:
            TableError: unknown ids, numbers that are no classes, or no label at all.
        """
        about = {**self.provenance, "judged_from": self.hash}
        bare = replace(self, label=None, label_sets=None, provenance=about)
        table = bare.with_labels(labels)
        kept = np.flatnonzero(table.labelled)
        if not len(kept):
            raise TableError(
                f"samples are judged by other labels, found none for the {len(self):,} of the "
                "table: check the column of labels"
            )
        return table if len(kept) == len(table) else table.rows(kept)

    def with_classes(self, classes: Sequence[str]) -> ScoreTable:
        """The table with names for its classes."""
        return replace(self, classes=tuple(classes))

    def only(self, names: Sequence[str]) -> ScoreTable:
        """The sub-table of some exits, in the order given."""
        index = [self.index(name) for name in names]
        return self.of_exits(
            tuple(self.exits[i] for i in index),
            self.prediction[index],
            {name: rows[index] for name, rows in self.confidence.items()},
            LazyDetails.of(self.details, names),
        )

    def of_exits(
        self,
        exits: Sequence[Exit],
        prediction: Array,
        confidence: Mapping[str, Array],
        details: Mapping[str, Detail] = MappingProxyType({}),
    ) -> ScoreTable:
        """The table of other exits on the same samples, from arrays (E, N) that are kept.

        The samples are not checked again.

        Raises:
            TableError: names that repeat, shapes that do not agree, NaN, negative predictions.
        """
        table = self._like(
            exits=tuple(exits),
            prediction=frozen(class_numbers(prediction, "predictions")),
            confidence=MappingProxyType(
                {name: confidence_rows(frozen(rows), name) for name, rows in confidence.items()}
            ),
            details=details,
        )
        table._check_exits()
        return table

    def with_times(self, times: Costs) -> ScoreTable:
        """The table with other measured times.

        Raises:
            TableError: a time is negative or no finite number.
        """
        return self._like(times=read_only_costs(times))

    def _like(self, **changes: Any) -> ScoreTable:
        """The table with other fields, all of which were checked."""
        table = object.__new__(ScoreTable)
        for one in fields(self):
            value = changes[one.name] if one.name in changes else getattr(self, one.name)
            object.__setattr__(table, one.name, value)
        return table


def table_hash(
    exits: Sequence[Exit],
    samples: ScoreTable,
    predictions: Iterable[Array],
    confidences: Mapping[str, Iterable[Array]],
) -> str:
    """The hash of a table from the rows (N,) of its exits one after another, see `ScoreTable.hash`.

    Args:
        exits: of the table.
        samples: a table of its samples with its costs; whatever exits.
        predictions: a row per exit.
        confidences: by name, a row per exit; those of a name are read when they are wanted.
    """
    digest = hashlib.sha256()
    heads = {
        "exits": [[exit.name, exit.parts] for exit in exits],
        "costs": {unit: dict(parts) for unit, parts in samples.costs.items()},
        "confidences": sorted(confidences),
    }
    digest.update(json.dumps(heads, sort_keys=True).encode())
    digest.update("\0".join(map(str, samples.ids)).encode())
    label = np.empty(0) if samples.label is None else samples.label
    for array in (samples.split, label.astype(np.int64), *predictions):
        digest.update(np.ascontiguousarray(array).data)
    if samples.label_sets is not None:
        digest.update(np.ascontiguousarray(samples.label_sets).data)
    for name in sorted(confidences):
        for row in confidences[name]:
            digest.update(np.ascontiguousarray(row).data)
    return digest.hexdigest()


def _of_outputs(
    outputs: ClassOutputs,
    logits: Mapping[str, Array],
    confidences: Mapping[str, Mapping[str, Array]],
    labels: Labels,
    **options: Any,
) -> ScoreTable:
    """A table from logits (N, C) with their confidences, which keeps the logits."""
    count = next(iter(logits.values())).shape[1]
    table = ScoreTable.from_predictions(
        {name: (rows.argmax(1), confidences[name]) for name, rows in logits.items()},
        None if labels is None else coded_labels(one_column(labels, "labels"), outputs.classes),
        classes=outputs.classes,
        **options,
    )
    check_labels(table.label if table.label_sets is None else table.label_sets, count)
    return replace(table, details={name: Detail.of(rows) for name, rows in logits.items()})


def _by_confidence(value: Any) -> Mapping[str, Any]:
    """Confidences by name; a data frame of several columns has the names of its columns."""
    if isinstance(value, Mapping):
        return {name: one_column(rows, "confidences") for name, rows in value.items()}
    if is_frame(value):
        rows, columns = array_of(value)
        if columns is not None and len(columns) > 1:
            return dict(zip(columns, rows.T, strict=True))
    return {CONFIDENCES[0]: one_column(value, "confidences")}


def _coded(
    predictions: Mapping[str, tuple[Any, Mapping[str, Any]]], classes: Sequence[str] | None
) -> dict[str, tuple[Array, Mapping[str, Any]]]:
    """Exit name -> class numbers (N,), and confidences by name; the same N for all."""
    if not predictions:
        raise TableError("a table has at least one exit, found none")
    rows: dict[str, tuple[Array, Mapping[str, Any]]] = {
        name: (np.asarray(class_codes(answer, classes, "predictions")), value)
        for name, (answer, value) in predictions.items()
    }
    lengths = {name: len(answer) for name, (answer, _) in rows.items()}
    if len(set(lengths.values())) > 1:
        raise TableError(f"all exits have the same samples, found the lengths {lengths}")
    return rows
