"""Which models of the catalogue are wanted: filters by name, family, licence, cost and size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from understudy.catalogue.models import CatalogueModel


@dataclass(frozen=True)
class Selection:
    """What models have to meet; None where anything will do.

    Patterns have ``*``, ``?`` and ``[...]``; several are separated by commas, of which one has to
    fit.

    Attributes:
        name: patterns of the spec; without a wildcard a part of it.
        family: patterns of the family.
        licence: patterns of the licence of the weights; models without a known one do not fit.
        max_macs: the most MACs.
        size: the height of the images, in pixels.
        classes: the number of classes.

    >>> from understudy.catalogue import load_catalogue
    >>> chosen = Selection(name="torchvision:resnet18").of(load_catalogue())
    >>> [model.spec for model in chosen]
    ['torchvision:resnet18.IMAGENET1K_V1']
    """

    name: str | None = None
    family: str | None = None
    licence: str | None = None
    max_macs: float | None = None
    size: int | None = None
    classes: int | None = None

    def of(self, models: Iterable[CatalogueModel]) -> tuple[CatalogueModel, ...]:
        """The models that meet it, in their order."""
        return tuple(model for model in models if self._fits(model))

    def _fits(self, model: CatalogueModel) -> bool:
        return (
            (self.name is None or _matches(model.spec, _parts(self.name)))
            and (self.family is None or _matches(model.family, self.family))
            and (self.licence is None or _matches(model.licence or "", self.licence))
            and (self.max_macs is None or model.macs <= self.max_macs)
            and self.size in (None, model.input_size[0])
            and self.classes in (None, model.classes)
        )


def _parts(patterns: str) -> str:
    """Patterns of whole names: those without a wildcard fit anywhere in a name."""
    return ",".join(
        one if set(one) & set("*?[") else f"*{one}*" for one in patterns.split(",") if one
    )


def _matches(text: str, patterns: str) -> bool:
    return any(fnmatchcase(text.lower(), one.strip().lower()) for one in patterns.split(","))
