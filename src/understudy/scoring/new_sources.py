"""The sources that a table lacks, run on some images before hours of scoring."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from understudy.errors import ModelError
from understudy.nn.stage import Stage, resizings_of
from understudy.scores import ScoreTable
from understudy.scoring.further_exits import already_scored
from understudy.scoring.probing import Probe, common_classes, probe
from understudy.scoring.repeatability import CHECKED
from understudy.scoring.sources import Sources
from understudy.zoo.batches import first_images
from understudy.zoo.data import DataSet, check_class_order
from understudy.zoo.hf_models import label_names
from understudy.zoo.models import load_stages


@dataclass(frozen=True)
class NewSources:
    """The sources that a table lacks.

    Attributes:
        specs: name of a source -> its model spec.
        images: the data.
        device: where to run, as torch names it.
        allow_code: the modules that specs in folders of exits may import.
    """

    specs: Mapping[str, str]
    images: DataSet
    device: str
    allow_code: Collection[str] = ()

    @staticmethod
    def of(sources: Sources, images: DataSet) -> NewSources:
        """Sources, as if nothing was known of them."""
        return NewSources(sources.specs, images, sources.device, sources.allow_code)

    def beside(self, older: ScoreTable | None) -> NewSources:
        """Those that an older table lacks. The ones whose names it has are loaded, and compared.

        Raises:
            ModelError: one that cannot be loaded.
            TableError: the table has another model of this name.
        """
        if older is None:
            return self
        specs = {
            name: spec
            for name, spec in self.specs.items()
            if name not in older.names or not already_scored(older, self._load(name))
        }
        return NewSources(specs, self.images, self.device, self.allow_code)

    def probe(self, name: str) -> Probe:
        """Run a source on some images, so that what cannot work fails before hours of scoring.

        Raises:
            ModelError: it cannot be loaded or run, or its logits depend on chance or on the rest of
                a batch.
            DataError: no image that can be decoded, or classes in another order than the model's.
        """
        stages = self._load(name)
        some = first_images(self.images, CHECKED, resizings=resizings_of(stages.values()))
        found = probe(stages, some)
        for stage in stages.values():
            names = label_names(stage.model)
            check_class_order(self.images.classes, names, data=repr(self.images.spec))
        return found

    def probed(self, probes: Mapping[str, Probe]) -> Sources:
        """The sources with what was found of them, by source, if they fit to each other.

        Raises:
            ModelError: other classes than the others', or two exits of one name.
            DataError: labels that the models cannot answer.
        """
        names: set[str] = set()
        for source, found in probes.items():
            repeated = [exit.name for exit in found.exits if exit.name in names]
            if repeated:
                raise ModelError(
                    f"exits have names of their own, {self.specs[source]!r} brings "
                    f"{repeated[0]!r}, which is there already: leave one out, or name it NAME=SPEC"
                )
            names |= {exit.name for exit in found.exits}
        classes = common_classes({name: one.classes for name, one in probes.items()})
        self.images.check_classes(classes)
        for one in probes.values():
            self.images.check_classes(classes, names=one.class_names)
        return Sources(self.specs, probes, self.device, self.allow_code)

    def _load(self, name: str) -> dict[str, Stage]:
        loaded = load_stages(self.specs[name], name, allow_code=self.allow_code)
        return {exit: stage.to(self.device) for exit, stage in loaded.items()}
