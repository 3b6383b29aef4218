"""The sources that a table lacks, run on some images before hours of scoring."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from understudy.errors import ModelError
from understudy.nn.stage import resizings_of
from understudy.scores import ScoreTable
from understudy.scoring.further_exits import already_scored
from understudy.scoring.probing import Probe, common_classes, probe
from understudy.scoring.repeatability import CHECKED
from understudy.scoring.sources import Sources
from understudy.zoo.batches import first_images
from understudy.zoo.data import DataSet, check_class_order
from understudy.zoo.hf_models import label_names
from understudy.zoo.models import load_stages


def new_sources(
    images: DataSet,
    models: Mapping[str, str],
    older: ScoreTable | None,
    *,
    device: str,
    allow_code: Collection[str],
) -> Sources:
    """Run every source on some images, so that what cannot work fails before hours of scoring.

    Sources that the older table has already, the same models, are left out.

    Args:
        images: the data.
        models: name of a source -> its model spec.
        older: the table to which they are added.
        device, allow_code: as for `Sources`.

    Raises:
        ModelError: a model that cannot be loaded or run, whose logits depend on chance or on the
            rest of a batch, other classes than the others', or two exits of one name.
        DataError: no image that can be decoded, or labels that the models cannot answer.
        TableError: the older table has other models of these names.
    """
    probes: dict[str, Probe] = {}
    names: set[str] = set()
    for source, spec in models.items():
        loaded = load_stages(spec, source, allow_code=allow_code)
        repeated = [name for name in loaded if name in names]
        if repeated:
            raise ModelError(
                f"exits have names of their own, {spec!r} brings {repeated[0]!r}, which is there "
                "already: leave one out, or name it NAME=SPEC"
            )
        names |= set(loaded)
        stages = {name: stage.to(device) for name, stage in loaded.items()}
        if older is None or not already_scored(older, stages):
            some = first_images(images, CHECKED, resizings=resizings_of(stages.values()))
            probes[source] = probe(stages, some)
            for stage in stages.values():
                check_class_order(images.classes, label_names(stage.model), data=repr(images.spec))
    if probes:
        classes = common_classes({name: one.classes for name, one in probes.items()})
        images.check_classes(classes)
        for one in probes.values():
            images.check_classes(classes, names=one.class_names)
    specs = {name: models[name] for name in probes}
    return Sources(specs, probes, device, allow_code)
