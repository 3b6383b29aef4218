"""The models of timm and torchvision, one per published set of weights."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from understudy.errors import ModelError

_TABLE = Path(__file__).with_name("models.csv")
_NO_FAMILY = frozenset({"tf", "legacy", "nf", "dm", "eca", "gc", "wide", "ese", "skip", "test"})
"""First words of names that are no family: ``tf_efficientnet_b0`` is an efficientnet."""


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A published model: an architecture with one set of weights, or with none.

    Attributes:
        spec: what `score` takes: ``timm:NAME.TAG``, ``torchvision:NAME.WEIGHTS``, or ``timm:NAME``
            where no weights are published.
        default: whether these are the weights that the name alone stands for.
        classes: of its head; 0 for a feature extractor, which is no classifier by itself.
        parameters: how many numbers its weights are; published files have mostly 4 bytes each.
        macs: multiply-adds of one image, counted as `nn.cost` counts.
        input_size: height and width in pixels.
        licence: of the weights, as the library names it; None where it names none.
        top1: accuracy on ImageNet in percent at this input size; None where it is not known.
        ms: time of one image in milliseconds; None where no published timing was joined.

    >>> model = find_model("torchvision:resnet18", load_catalogue())
    >>> model.hub, model.input_size, model.parameters
    ('torchvision', (224, 224), 11689512)
    """

    spec: str
    default: bool
    classes: int
    parameters: int
    macs: int
    input_size: tuple[int, int]
    licence: str | None
    top1: float | None
    ms: float | None = None

    @property
    def hub(self) -> str:
        """The library that has it."""
        return self.spec.partition(":")[0]

    @property
    def name(self) -> str:
        """The name without its library, its weights included."""
        return self.spec.partition(":")[2]

    @property
    def architecture(self) -> str:
        """The name without its weights."""
        return self.name.partition(".")[0]

    @property
    def weights(self) -> str | None:
        """The name of the published weights."""
        return self.name.partition(".")[2] or None

    @property
    def family(self) -> str:
        """The first word of the architecture without sizes, such as resnet or vit."""
        return family_of(self.architecture)


def family_of(architecture: str) -> str:
    """The family of an architecture, by its name.

    >>> [family_of(name) for name in ("resnet50d", "tf_efficientnetv2_s", "regnet_y_8gf")]
    ['resnet', 'efficientnetv2', 'regnety']
    """
    words = re.sub(r"_(v\d|[xy](?=_))", r"\1", architecture).split("_")
    while len(words) > 1 and words[0] in _NO_FAMILY:
        words.pop(0)
    return re.sub(r"(?<=[a-z])\d{2,}.*", "", words[0])


@cache
def load_catalogue() -> tuple[CatalogueModel, ...]:
    """Every model of timm and torchvision, those of one architecture one after another.

    >>> model = find_model("torchvision:resnet50", load_catalogue())
    >>> model.spec, model.parameters, round(model.macs / 1e9, 2), model.top1
    ('torchvision:resnet50.IMAGENET1K_V2', 25557032, 4.09, 80.858)
    """
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(
            CatalogueModel(
                spec=row["spec"],
                default=row["default"] == "1",
                classes=int(row["classes"]),
                parameters=int(row["parameters"]),
                macs=int(row["macs"]),
                input_size=(int(row["height"]), int(row["width"])),
                licence=row["licence"] or None,
                top1=float(row["top1"]) if row["top1"] else None,
            )
            for row in csv.DictReader(file)
        )


def find_model(spec: str, models: Iterable[CatalogueModel]) -> CatalogueModel:
    """The model that a spec names; its default weights where it names none.

    Options of the spec (``?run=...``) are left out.

    >>> find_model("timm:resnet18", load_catalogue()).spec
    'timm:resnet18.a1_in1k'

    Raises:
        ModelError: no such model; the message has the nearest names.
    """
    name = spec.partition("?")[0]
    known = {model.spec: model for model in models}
    defaults = {f"{one.hub}:{one.architecture}": one for one in known.values() if one.default}
    found = known.get(name) or defaults.get(name)
    if found is None:
        near = [one for one in defaults if one.endswith(f":{name}")]
        near = near or get_close_matches(name, [*defaults, *known], 2)
        way_out = (
            f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else "`understudy zoo --name PART` lists names"
        )
        raise ModelError(f"no model {name!r} in the catalogue; {way_out}")
    return found
