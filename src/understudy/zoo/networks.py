"""Everything a model spec brings: one exit of a model, or all exits of a trained network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.early_exit.network import ExitNetwork
from understudy.early_exit.serialization import load_exits
from understudy.errors import ModelError
from understudy.nn.stage import Stage
from understudy.zoo.models import is_network, load_stage, parse, variant_of


def load_stages(spec: str, name: str) -> dict[str, Stage]:
    """The stages that a spec brings, by exit: ``exits:DIR`` all those of a network, others one.

    Args:
        spec: a model spec.
        name: what the model is called; exits inside a network are called NAME/TAP/HEAD.

    Raises:
        ModelError: no such model or folder, weights that cannot be had or do not fit.
        MissingExtra: timm or torchvision is not installed.
    """
    return load_network(spec).stages(name) if is_network(spec) else {name: load_stage(spec)}


def load_network(spec: str) -> ExitNetwork:
    """The network of ``exits:DIR``, its backbone and saver loaded from their own specs.

    Raises:
        ModelError: no such folder, or a backbone with other weights than the exits were trained on.
    """
    if not is_network(spec):
        raise ModelError(
            f"a network with exits reads exits:DIR, found {spec!r}: train some with `understudy "
            "train-exits`"
        )
    parsed = parse(spec)
    network = load_exits(parsed.target, stage_of=_stage_of)
    network.origin = {"spec": spec}
    return network.with_mode(variant_of(parsed))


def _stage_of(origin: Mapping[str, Any]) -> Stage:
    return load_stage(str(origin["spec"]))
