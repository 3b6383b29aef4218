"""zoo: the models of timm and torchvision, and which of them are worth scoring as savers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.app.cli.options import Json, finite, option
from understudy.app.cli.terminal import UsageError, answer, next_steps, quoted
from understudy.display import cost_text, group_of, note_of, percent, table_of
from understudy.errors import unknown
from understudy.text_table import Column

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from understudy.catalogue import CatalogueModel
    from understudy.catalogue.suggestions import Suggestion, Suggestions

SHOWN = 40  # models of a list for people
IMAGENET_CLASSES = 1000
ORDERS = ("name", "macs", "parameters", "top1", "ms")
_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

Name = Annotated[
    str | None,
    option("PATTERN", "Names: a part, or a pattern such as 'timm:resnet*'; several with commas."),
]
Family = Annotated[
    str | None,
    option("PATTERN", "Families, such as convnext or 'efficient*'; several with commas."),
]
Licence = Annotated[
    str | None,
    option("PATTERN", "Licences of the weights, such as 'apache-2.0,mit'; unknown ones are out."),
]
PublishedFiles = Annotated[
    list[Path] | None,
    option(
        "CSV",
        "A result file of timm: results-*.csv (accuracies) or benchmark-infer-*.csv (times). "
        "Repeat it.",
        "--published",
    ),
]


def zoo(
    context: typer.Context,
    name: Name = None,
    family: Family = None,
    licence: Licence = None,
    max_macs: Annotated[
        str | None, option("MACS", "The most MACs of an image, such as 500M or 4.1G.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, max=10**6, metavar="PIXELS", help="The height of the images."),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            min=0, max=10**6, metavar="N", help="The number of classes; 0 for feature extractors."
        ),
    ] = None,
    published: PublishedFiles = None,
    sort: Annotated[
        str, option("ORDER", f"{', '.join(ORDERS[:-1])} or {ORDERS[-1]}; unknown values last.")
    ] = "name",
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**6,
            metavar="N",
            help=f"The most models. [dim]Default: {SHOWN}; all with --json.[/]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the classifiers of timm and torchvision: cost, input size, licence, accuracy.

    Neither library is imported. MACs are counted by understudy; accuracies are those that the
    libraries carry, or those of result files (`--published`), joined by model and image size.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    from understudy.catalogue.selection import Selection

    _check_order(sort)
    selection = Selection(
        name=name,
        family=family,
        licence=licence,
        max_macs=_count(max_macs),
        size=size,
        classes=classes,
    )
    found = _in_order(selection.of(_models(published)), sort)
    if as_json:
        answer("", [model_data(model) for model in found[:limit]], as_json=True)
    else:
        answer(_list_view(found, limit or SHOWN), None, as_json=False)


def suggest(
    big: Annotated[str, option("SPEC", "The large model, such as timm:convnextv2_huge.")],
    within: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=100,
            metavar="PERCENT",
            callback=finite,
            help="The most that a saver may cost, in percent of the large model.",
        ),
    ] = 50.0,
    most: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="How many at most.")] = 10,
    name: Name = None,
    family: Family = None,
    licence: Licence = None,
    published: PublishedFiles = None,
    as_json: Json = False,
) -> None:
    """Suggest savers for a large model that are worth scoring: accurate, cheap and diverse.

    The saving of each pair is estimated from the two accuracies and costs, in published time where
    `--published` brings it, else in MACs. Few of one family are suggested.
    """
    from understudy.catalogue import find_model
    from understudy.catalogue.selection import Selection
    from understudy.catalogue.suggestions import suggest as suggested

    models = _models(published)
    pool = Selection(name=name, family=family, licence=licence).of(models)
    found = suggested(find_model(big, models), pool, within=within, most=most)
    answer(_suggestions_view(found, within), _suggestions_data(found), as_json=as_json)


def model_data(model: CatalogueModel) -> dict[str, Any]:
    """A model as plain JSON."""
    return {
        "spec": model.spec,
        "hub": model.hub,
        "architecture": model.architecture,
        "weights": model.weights,
        "default": model.default,
        "family": model.family,
        "classes": model.classes,
        "parameters": model.parameters,
        "macs": model.macs,
        "input_size": [*model.input_size],
        "licence": model.licence,
        "top1": model.top1,
        "ms": model.ms,
    }


def _models(published: Sequence[Path] | None) -> tuple[CatalogueModel, ...]:
    """The catalogue, with published results where files are given."""
    from understudy.catalogue import load_catalogue

    models = load_catalogue()
    if not published:
        return models
    from understudy.catalogue.published import join_published, read_published

    return join_published(models, read_published(published))


def _refuse_options(context: typer.Context) -> None:
    """Options before the subcommand would have no effect.

    Raises:
        UsageError: there are some.
    """
    given = [
        option.opts[0]
        for option in context.command.params
        if getattr(context.get_parameter_source(str(option.name)), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise UsageError(
            f"options stand behind `zoo {context.invoked_subcommand}`, found {', '.join(given)} "
            "in front of it: move them"
        )


def _check_order(order: str) -> None:
    if order not in ORDERS:
        raise UsageError(unknown("order", order, ORDERS))


def _in_order(models: Sequence[CatalogueModel], order: str) -> list[CatalogueModel]:
    """Models by name or cost upwards, by accuracy downwards; unknown values last."""
    if order == "name":
        return sorted(models, key=lambda model: model.spec)
    sign = -1 if order == "top1" else 1

    def place(model: CatalogueModel) -> tuple[bool, float]:
        value = getattr(model, order)
        return value is None, sign * (value or 0.0)

    return sorted(models, key=place)


def _count(text: str | None) -> int | None:
    """A number of operations, with a prefix.

    >>> _count("500M"), _count("4.1G")
    (500000000, 4100000000)

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(e\d+)?([kmgt]?)", text.strip().lower())
    if match is None:
        raise UsageError(f"--max-macs takes a number, found {text!r}: write it like 500M or 4.1G")
    return round(float(match[1] + (match[2] or "")) * _PREFIXES[match[3]])


def _list_view(models: Sequence[CatalogueModel], limit: int) -> Group:
    """The models for people."""
    shown = models[:limit]
    timed = any(model.ms for model in shown)
    columns: list[str | Column] = [Column("model", "name"), "top-1", "MACs"]
    columns += ["ms"] if timed else []
    columns += ["parameters", "input", "classes", Column("licence of\nthe weights", "name")]
    title = f"{len(models):,} models" if len(models) != 1 else "1 model"
    table = table_of(title, columns, (_cells(model, timed=timed) for model in shown))
    notes = [f"{len(shown)} of them are shown: set --limit, a filter, or --json."]
    if any(model.top1 is None for model in shown):
        notes.append(_UNKNOWN)
    return group_of(table, note_of(" ".join(notes[len(shown) == len(models) :])))


_UNKNOWN = (
    "–: unknown here; --published FILE joins result files of timm, such as results-imagenet.csv "
    "(accuracies) and benchmark-infer-*.csv (times)."
)


def _cells(model: CatalogueModel, *, timed: bool) -> tuple[str, ...]:
    height, width = model.input_size
    return (
        model.spec,
        "–" if model.top1 is None else f"{model.top1:.2f}",
        cost_text(model.macs, "MACs"),
        *([_ms(model)] if timed else []),
        cost_text(model.parameters, "MACs"),
        f"{height}" if height == width else f"{height}x{width}",
        f"{model.classes:,}" if model.classes else "none",
        model.licence or "–",
    )


def _ms(model: CatalogueModel) -> str:
    return "–" if model.ms is None else f"{model.ms:.3g}"


def _suggestions_view(found: Suggestions, within: float) -> Group:
    """The savers for people, and the command that scores them."""
    big, timed = found.big, found.unit == "ms"
    top1 = "unknown" if big.top1 is None else f"{big.top1:.2f} %"
    time = f", {_ms(big)} ms" if timed else ""
    title = (
        f"savers worth scoring in front of {big.spec} (top-1 {top1}, "
        f"{cost_text(big.macs, 'MACs')} MACs{time}), within {within:g} % of its {found.unit}"
    )
    estimated = any(one.saving is not None for one in found.savers)
    columns: list[str | Column] = [Column("saver", "name"), "top-1", "MACs"]
    columns += ["ms", "cost"] if timed else ["cost"]
    columns += ["estimated\nsaving"] if estimated else []
    columns += ["frontier", Column("licence", "name")]
    rows = (_suggestion_cells(one, timed=timed, estimated=estimated) for one in found.savers)
    views: list[RenderableType] = [table_of(title, columns, rows)] if found.savers else []
    views += [note_of(f"{text}\n") for text in _remarks(found, within)]
    return group_of(*views, next_steps(*([score_command(found)] if found.savers else [])))


def _suggestion_cells(one: Suggestion, *, timed: bool, estimated: bool) -> tuple[str, ...]:
    saving = "–" if one.saving is None else percent(one.saving)
    return (
        one.model.spec,
        "–" if one.model.top1 is None else f"{one.model.top1:.2f}",
        cost_text(one.model.macs, "MACs"),
        *([_ms(one.model)] if timed else []),
        percent(one.cost),
        *([saving] if estimated else []),
        {True: "yes", False: "no", None: "–"}[one.frontier],
        one.model.licence or "–",
    )


def _remarks(found: Suggestions, within: float) -> Iterable[str]:
    """What the figures are, and what is not known."""
    from understudy.catalogue.suggestions import DROP

    joins = " --published results-imagenet.csv joins what timm publishes."
    hint = joins if found.big.classes == IMAGENET_CLASSES else ""
    if not found.savers:
        yield f"No model with published weights promises a saving within {within:g} % of its cost."
    elif found.savers[0].saving is None:
        whose = found.big.spec if found.big.top1 is None else "the savers"
        yield (
            f"The accuracy of {whose} is not known here: the savers are spread over the costs, one "
            f"of a family, and no saving is estimated.{hint}"
        )
    else:
        yield (
            f"Estimated saving: of {found.unit}, at a drop of {DROP} points, from the accuracies "
            "alone; ± 14 points. Scores tell which saver is best. Frontier: no cheaper model "
            "in reach is as accurate."
        )
    better = [one for one in found.savers if (one.model.top1 or 0) >= (found.big.top1 or 101)]
    if better:
        yield (
            f"{len(better)} of them are at least as accurate as the large model by themselves, "
            f"such as {better[0].model.spec}: a cascade may not be needed."
        )
    if found.unit == "MACs" and found.savers:
        yield (
            "MACs are not time: networks with depthwise convolutions, many small layers or large "
            "activations take longer than their MACs say. --published benchmark-infer-*.csv of "
            "timm ranks by time."
        )
    if found.unknown:
        yield (
            f"{found.unknown:,} more models in reach are left out, because their accuracy is not "
            f"known here.{hint}"
        )
    if found.untimed:
        yield f"{found.untimed:,} models are left out, because no time of theirs is published."


def score_command(found: Suggestions) -> str:
    """The command that scores the large model with its savers."""
    specs = (found.big.spec, *(one.model.spec for one in found.savers))
    return f"understudy score {' '.join(map(quoted, specs))} --data folder:val/ --into table"


def _suggestions_data(found: Suggestions) -> dict[str, Any]:
    return {
        "big": model_data(found.big),
        "unit": found.unit,
        "savers": [
            {
                **model_data(one.model),
                "cost": one.cost,
                "saving": one.saving,
                "frontier": one.frontier,
            }
            for one in found.savers
        ],
        "left_out": {"unknown_accuracy": found.unknown, "unknown_time": found.untimed},
        "next": score_command(found) if found.savers else None,
    }
