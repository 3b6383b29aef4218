"""plot: a result or a table as a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.app.cli.options import Json, argument, finite, option
from understudy.app.cli.terminal import UsageError, answer, note_missing_labels
from understudy.errors import unknown

if TYPE_CHECKING:
    from understudy.result import Result
    from understudy.scores import ScoreTable

BUDGETS = (-100.0, 100.0)  # points


def plot(
    source: Annotated[Path, argument("RESULT|TABLE", "What `search --out` wrote, or a table.")],
    kind: Annotated[
        str,
        option(
            "KIND",
            "frontier (of a RESULT): cost against accuracy; pairs (of a TABLE): what every pair of "
            "models saves; deferral (TABLE): accuracy against the share deferred; difficulty "
            "(either): accuracy on easy and on hard samples.",
        ),
    ],
    out: Annotated[Path, option("FILE", "The figure to write: .svg, .png or .pdf.")],
    table: Annotated[
        Path | None,
        option("TABLE", "The table that RESULT was searched on, for what it does not hold itself."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=BUDGETS[0],
            max=BUDGETS[1],
            callback=finite,
            metavar="POINTS",
            help="The budget of every pair, or the cascade of RESULT to draw.",
        ),
    ] = None,
    little: Annotated[
        str | None,
        option("EXIT", "The exit that defers, or orders the samples. [dim]The cheapest.[/]"),
    ] = None,
    reference: Annotated[
        str | None,
        option(
            "EXIT", "The exit that others are compared with. [dim]The most accurate on tune.[/]"
        ),
    ] = None,
    confidence: Annotated[
        list[str] | None,
        option("NAME", "A stored confidence; several for deferral; `deferral` learns one on tune."),
    ] = None,
    unit: Annotated[
        str | None, option("UNIT", "The unit of cost. [dim]The first of the table.[/]")
    ] = None,
    split: Annotated[
        str,
        option("SPLIT", "Samples of the table: tune, or certify, test or all, which is a look."),
    ] = "tune",
    dark: Annotated[bool, typer.Option("--dark", help="On dark ground.")] = False,
    as_json: Json = False,
) -> None:
    """Draw a result or a table: a figure as SVG, PNG or PDF, drawn without network.

    `understudy.plots` has the same in Python, as Altair charts.
    """
    if kind not in _DRAW:
        raise UsageError(unknown("kind", kind, _DRAW, where="plot"))
    from understudy.plots.rendering import check_format, write_chart

    check_format(out)
    asked = {
        "--table": table,
        "--max-drop": max_drop,
        "--little": little,
        "--reference": reference,
        "--confidence": confidence,
        "--unit": unit,
        "--split": None if split == "tune" else split,
    }
    request = _FigureRequest(
        source, kind, {name: value for name, value in asked.items() if value is not None}, dark
    )
    chart = _DRAW[kind](request)
    size = write_chart(chart, out)
    answer(
        f"written to {out} ({size / 1000:,.0f} kB)",
        {"plot": str(out), "kind": kind, "bytes": size},
        as_json=as_json,
    )


@dataclass(frozen=True)
class _FigureRequest:
    """What is to be drawn, of which file, with which options.

    Attributes:
        source: a result or a table.
        kind: of figure.
        options: those that were given, by name.
        dark: on dark ground.
    """

    source: Path
    kind: str
    options: dict[str, Any]
    dark: bool

    @property
    def of_table(self) -> bool:
        return self.source.is_dir()

    def allow(self, *names: str) -> None:
        """Refuse options that the figure does not read.

        Raises:
            UsageError: the message has one of them.
        """
        for name in self.options:
            if name not in names:
                kind = "a table" if self.of_table else "a result"
                raise UsageError(
                    f"`--kind {self.kind}` of {kind} reads "
                    f"{', '.join(names) or 'no further option'}, found {name}: drop it"
                )

    def result(self) -> Result:
        """The result at the path.

        Raises:
            PolicyError: it is something else.
        """
        from understudy.result import Result
        from understudy.written_places import check_result

        check_result(self.source)
        return Result.load(self.source)

    def table(self, result: Result | None) -> tuple[Path, ScoreTable]:
        """The table, that of a result with what the search fitted; and where it is.

        Raises:
            UsageError: none was named.
            TableError: it is not the one that was searched.
        """
        from understudy.store import load_table

        if result is None:
            return self.source, load_table(self.source)
        path = self.options.get("--table")
        if path is None:
            raise UsageError(
                f"`--kind {self.kind}` is drawn from a table, {str(self.source)!r} is a file: name "
                "the folder of the table, or add --table TABLE to a search result"
            )
        return path, result.searched(load_table(path), name=repr(str(path)))

    def samples(self, path: Path, scores: ScoreTable) -> ScoreTable:
        """The samples of `--split`; a look, where a search has not chosen on them already."""
        from understudy.looks import log_look

        split = self.options.get("--split", "tune")
        part = scores.on(split)
        if split != "tune":
            log_look(path, part.ids, why=f"plot {self.kind}")
        note_missing_labels(part)
        return part

    def confidences(self, scores: ScoreTable, big: str) -> tuple[ScoreTable, list[str] | None]:
        """The table with the named confidences; a learned one is learned where it is missing."""
        from understudy.confidence_functions import LEARNED
        from understudy.deferral import with_deferral

        names = self.options.get("--confidence")
        if names and LEARNED in names and LEARNED not in scores.confidence:
            scores = with_deferral(scores, big, unit=self.options.get("--unit"))
        return scores, names


def _frontier(request: _FigureRequest) -> Any:
    from understudy.plots.frontier_chart import frontier

    result = request.result()
    request.allow()
    return frontier(result, dark=request.dark)


def _pairs(request: _FigureRequest) -> Any:
    from understudy.plots.pairs_chart import pairs
    from understudy.policy import DEFAULT_CONFIDENCE

    result = None if request.of_table else request.result()
    path, scores = request.table(result)
    request.allow("--table", "--max-drop", "--confidence", "--unit", "--split")
    if "--max-drop" not in request.options:
        raise UsageError(
            "`--kind pairs` compares pairs within a budget, found none: add --max-drop 0.5"
        )
    names = request.options.get("--confidence", [DEFAULT_CONFIDENCE])
    if len(names) > 1:
        raise UsageError(f"`--kind pairs` reads one confidence, found {', '.join(names)}: name one")
    return pairs(
        request.samples(path, scores),
        max_drop=request.options["--max-drop"],
        confidence=names[0],
        unit=request.options.get("--unit", None if result is None else result.unit),
        dark=request.dark,
    )


def _deferral(request: _FigureRequest) -> Any:
    from understudy.plots.deferral_chart import deferral

    result = None if request.of_table else request.result()
    path, scores = request.table(result)
    request.allow("--table", "--little", "--reference", "--confidence", "--unit", "--split")
    unit = request.options.get("--unit")
    named = request.options.get("--reference", None if result is None else result.reference)
    big = scores.reference(named, unit=unit)
    little = request.options.get("--little")
    if little is None and result is not None:
        little = _first_exit(result)
    scores, confidences = request.confidences(scores, big)
    return deferral(
        request.samples(path, scores),
        little=little,
        reference=big,
        confidences=confidences,
        unit=unit,
        dark=request.dark,
    )


def _first_exit(result: Result) -> str | None:
    """The first exit of the first cascade of a result."""
    cascades = (choice.policy.exits for choice in result.choices if len(choice.policy.exits) > 1)
    return next((exits[0] for exits in cascades), None)


def _difficulty(request: _FigureRequest) -> Any:
    if request.of_table:
        return _difficulty_of_table(request)
    from understudy.plots.difficulty_chart import difficulty

    result = request.result()
    request.allow("--table", "--max-drop")
    found = result.difficulty
    if found is None:
        raise UsageError(
            f"difficulty compares exits, the result {str(request.source)!r} has one alone: score "
            "another model"
        )
    chosen = (
        [result.choice(request.options["--max-drop"])] if "--max-drop" in request.options else []
    )
    if chosen and "--table" not in request.options:
        raise UsageError(
            "a cascade by difficulty is drawn from the table too, which "
            f"{str(request.source)!r} does not hold: add --table TABLE"
        )
    if "--table" not in request.options:
        return difficulty(found, dark=request.dark)
    from understudy.deciles import policy_by_tenth
    from understudy.looks import log_look

    path, scores = request.table(result)
    log_look(path, scores.ids, why="plot difficulty")
    plans = chosen or list(result.choices)
    cascades = {
        f"cascade ≤ {choice.max_drop:g}": policy_by_tenth(
            scores,
            choice.policy,
            little=found.little,
            reference=found.reference,
            confidence=_ordering(result),
        )
        for choice in plans
        if len(choice.policy.exits) > 1
    }
    named = [name for choice in plans for name in choice.policy.exits]
    return difficulty(found, cascades=cascades, named=named, dark=request.dark)


def _ordering(result: Result) -> str:
    """The stored confidence by which the result orders samples: its own, but for a learned one."""
    from understudy.confidence_functions import LEARNED
    from understudy.policy import DEFAULT_CONFIDENCE

    name = result.arguments.get("confidence")
    return DEFAULT_CONFIDENCE if name in {None, LEARNED} else str(name)


def _difficulty_of_table(request: _FigureRequest) -> Any:
    from understudy.deciles import difficulty as by_difficulty
    from understudy.plots.difficulty_chart import difficulty
    from understudy.policy import DEFAULT_CONFIDENCE

    request.allow("--little", "--reference", "--confidence", "--unit", "--split")
    path, scores = request.table(None)
    unit = request.options.get("--unit")
    big = scores.reference(request.options.get("--reference"), unit=unit)
    scores, names = request.confidences(scores, big)
    if names and len(names) > 1:
        raise UsageError(
            f"`--kind difficulty` reads one confidence, found {', '.join(names)}: name one"
        )
    found = by_difficulty(
        request.samples(path, scores),
        little=request.options.get("--little"),
        reference=big,
        unit=unit,
        confidence=(names or [DEFAULT_CONFIDENCE])[0],
    )
    return difficulty(found, dark=request.dark)


_DRAW: dict[str, Callable[[_FigureRequest], Any]] = {
    "frontier": _frontier,
    "pairs": _pairs,
    "deferral": _deferral,
    "difficulty": _difficulty,
}
