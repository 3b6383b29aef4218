"""Model specs become stages, ``exits:DIR`` a network with trained exits."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from understudy.early_exit.network import ExitNetwork
from understudy.early_exit.serialization import exits_file, load_exits
from understudy.errors import ModelError, UnderstudyError, brief
from understudy.nn.execution_mode import PLAIN, ExecutionMode, with_mode
from understudy.nn.stage import Stage
from understudy.zoo.factories import (
    PreprocessOf,
    declared_input,
    factory_stage,
    ready_tensors,
)
from understudy.zoo.hf_models import hf_model, hf_stage, load_hf_weights
from understudy.zoo.library_models import timm_model, timm_stage, torchvision_stage
from understudy.zoo.model_specs import named_specs, parse_model_spec
from understudy.zoo.onnx_models import onnx_model, onnx_stage
from understudy.zoo.spec import Spec
from understudy.zoo.weights import load_weights

_HUBS: Mapping[str, Callable[..., Stage]] = MappingProxyType(
    {"timm": timm_stage, "torchvision": torchvision_stage, "hf": hf_stage, "onnx": onnx_stage}
)
_RECORDED: Mapping[str, Callable[[Spec, Mapping[str, Any]], nn.Module]] = MappingProxyType(
    {"timm": timm_model, "hf": hf_model, "onnx": onnx_model}
)


def load_stage(
    spec: str, *, allow_code: Collection[str] = (), found_in: str | Path | None = None
) -> Stage:
    """The model that a spec names, with its weights and its own preprocessing.

    ``?checkpoint=FILE`` gives the weights; ``?weights=random`` leaves the model untrained, always
    with the same numbers; otherwise they are the published ones (timm, torchvision, hf) or whatever
    the factory sets (py). ``?classes=N`` sets the number of classes. ``?run=folded+channels_last``
    runs the model in another execution mode (`nn.execution_mode`).

    Args:
        spec: a model spec.
        allow_code: the modules that specs read from files may import.
        found_in: the file that the spec was read from; None for a spec that you write, which may
            import any module, of the working directory first.

    >>> stage = load_stage("timm:test_byobnet?weights=random&classes=10")
    >>> stage.preprocess.size
    (160, 160)

    Raises:
        ModelError: no such model, a module that was not allowed, or weights that cannot be had or
            do not fit.
        MissingExtra: the library of the model is not installed.
    """
    parsed = parse_model_spec(spec)
    checkpoint = parsed.options.get("checkpoint")
    published = checkpoint is None and "weights" not in parsed.options
    stage = _make(
        parsed,
        published=published,
        allow_code=allow_code,
        found_in=found_in,
        preprocess_of=declared_input,
    )
    if checkpoint is not None and parsed.scheme == "hf":
        load_hf_weights(stage.model, checkpoint, parsed)
    elif checkpoint is not None:
        load_weights(stage.model, checkpoint)
    return with_mode(stage, _execution_mode(parsed))


def build_stage(spec: str) -> Stage:
    """Architecture and preprocessing alone: nothing is downloaded and no checkpoint is read.

    Raises:
        ModelError: no such model.
        MissingExtra: the library of the model is not installed.
    """
    return _built(spec, allow_code=(), found_in=None, preprocess_of=declared_input)


def build_model(
    spec: str,
    *,
    recorded: Any = None,
    allow_code: Collection[str] = (),
    found_in: str | Path | None = None,
) -> nn.Module:
    """The architecture alone, for what brings its own weights and preprocessing: a saved cascade.

    A module of ``py:module:factory`` need not declare its input: it may take ready tensors.

    Args:
        spec: a model spec.
        recorded: the architecture that the origin of the stage has recorded, for a model that
            comes from the hub or a folder; neither is needed then.
        allow_code, found_in: as for `load_stage`.

    Raises:
        ModelError: no such model, or a module that was not allowed.
        MissingExtra: the library of the model is not installed.
    """
    parsed = parse_model_spec(spec)
    if recorded is not None and parsed.scheme in _RECORDED:
        with _fixed_seed():
            model = _RECORDED[parsed.scheme](parsed, recorded)
        return with_mode(Stage(model), _execution_mode(parsed)).model
    built = _built(spec, allow_code=allow_code, found_in=found_in, preprocess_of=ready_tensors)
    return built.model


def load_stages(
    spec: str, name: str, *, allow_code: Collection[str] = (), found_in: str | Path | None = None
) -> dict[str, Stage]:
    """The stages of a spec by exit: all those of a network for ``exits:DIR``, otherwise one.

    Args:
        spec: a model spec.
        name: the name of the model; exits inside a network are named NAME/TAP/HEAD.
        allow_code, found_in: as for `load_stage`.

    Raises:
        ModelError: no such model or folder, weights that cannot be had or do not fit.
        MissingExtra: the library of the model is not installed.
    """
    if parse_model_spec(spec).scheme == "exits":
        return load_network(spec, allow_code=allow_code).stages(name)
    return {name: load_stage(spec, allow_code=allow_code, found_in=found_in)}


def load_network(spec: str, *, allow_code: Collection[str] = ()) -> ExitNetwork:
    """The network of ``exits:DIR``, its backbone and saver loaded from their own specs.

    Args:
        spec: ``exits:DIR``.
        allow_code: the modules that these specs, which stand in a file of the folder, may import.

    Raises:
        ModelError: no such folder, a backbone with other weights than the exits were trained on, or
            a module that was not allowed.
    """
    parsed = parse_model_spec(spec)
    if parsed.scheme != "exits":
        raise ModelError(
            f"a network with exits reads exits:DIR, found {spec!r}: train some with `understudy "
            "train-exits`"
        )
    file = exits_file(parsed.target)
    network = load_exits(
        parsed.target,
        stage_of=lambda origin: load_stage(
            str(origin["spec"]), allow_code=allow_code, found_in=file
        ),
    )
    network.origin = {"spec": spec}
    return network.with_mode(_execution_mode(parsed)) if "run" in parsed.options else network


def plain_and_mode(spec: str) -> tuple[str, ExecutionMode]:
    """The spec without its execution mode, in which a network is tapped, and that mode.

    >>> plain, mode = plain_and_mode("timm:resnet18?run=bfloat16&classes=10")
    >>> plain, mode.name
    ('timm:resnet18?classes=10', 'bfloat16')

    Raises:
        ModelError: not a model spec.
    """
    parsed = parse_model_spec(spec)
    return parsed.without("run"), _execution_mode(parsed)


def named_models(texts: Sequence[str]) -> dict[str, str]:
    """Exit name -> spec, from texts ``SPEC`` or ``NAME=SPEC``; see `model_specs.named_specs`.

    >>> named_models(["timm:resnet18", "big=py:nets:large?checkpoint=a=b.pt"])
    {'resnet18': 'timm:resnet18', 'big': 'py:nets:large?checkpoint=a=b.pt'}

    Raises:
        ModelError: not a model spec, or two exits of one name.
    """
    return {name: spec.text for name, spec in named_specs(texts).items()}


def _execution_mode(spec: Spec) -> ExecutionMode:
    return ExecutionMode.parse(spec.options["run"]) if "run" in spec.options else PLAIN


def _built(
    spec: str,
    *,
    allow_code: Collection[str],
    found_in: str | Path | None,
    preprocess_of: PreprocessOf,
) -> Stage:
    """A model without its published weights or its checkpoint."""
    parsed = parse_model_spec(spec)
    stage = _make(
        parsed,
        published=False,
        allow_code=allow_code,
        found_in=found_in,
        preprocess_of=preprocess_of,
    )
    return with_mode(stage, _execution_mode(parsed))


def _make(
    spec: Spec,
    *,
    published: bool,
    allow_code: Collection[str],
    found_in: str | Path | None,
    preprocess_of: PreprocessOf,
) -> Stage:
    if spec.scheme == "exits":
        raise ModelError(
            f"one model is needed here, {spec.text!r} has all exits of a network: name its "
            "backbone, or score the network"
        )
    with _fixed_seed():
        if spec.scheme == "py":
            stage = factory_stage(
                spec, preprocess_of=preprocess_of, allow_code=allow_code, found_in=found_in
            )
        else:
            stage = _hub_stage(spec, published=published)
    stage.origin = {**_plain(stage.origin, spec), "spec": spec.text}
    return stage


def _hub_stage(spec: Spec, *, published: bool) -> Stage:
    """A model of timm, torchvision or transformers.

    Raises:
        ModelError: no such model or weights, or it cannot be made.
        MissingExtra: the library is not installed.
    """
    try:
        return _HUBS[spec.scheme](spec, published=published)
    except UnderstudyError:
        raise
    except Exception as error:
        raise ModelError(
            f"{spec.text!r} cannot be made ({brief(error)}): check the name and ?classes=N"
        ) from error


def _plain(origin: Any, spec: Spec) -> dict[str, Any]:
    """The origin that a factory gave to its stage: plain JSON, and a dict, to be deep-copied.

    Raises:
        ModelError: it is none.
    """
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(origin), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the origin of a stage is plain JSON, that of {spec.text!r} is not ({brief(error)}): "
            "use texts, numbers and lists"
        ) from error
    return found


@contextmanager
def _fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield
