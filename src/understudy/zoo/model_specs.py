"""Model specs (``timm:NAME``, ``torchvision:NAME``, ``hf:NAME``, ``onnx:FILE``,
``py:module:factory``, ``exits:DIR``) and their options, checked without importing PyTorch or a
model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from understudy.errors import ModelError
from understudy.nn.mode_options import parse_options
from understudy.zoo.allowed_code import import_path
from understudy.zoo.hub_names import HUBS, check_name, hubs_with, near_names
from understudy.zoo.onnx_options import KEYS, OnnxOptions
from understudy.zoo.spec import Spec, existing, parse_spec

SCHEMES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "timm": ("checkpoint", "classes", "weights", "run"),
        "torchvision": ("checkpoint", "classes", "weights", "run"),
        "hf": ("checkpoint", "classes", "weights", "revision", "run"),
        "onnx": KEYS,
        "py": ("checkpoint", "weights", "macs", "run"),
        "exits": ("run",),
    }
)
MOST_CLASSES = 1_000_000
EXITS = "exits.json"
"""The file in a folder of exits."""
TAUGHT = "saver.json"
"""The file in the folder of a taught model."""
CONFIG = "config.json"
"""The file in a folder of a model of transformers or timm."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

LIBRARY, HUB, FOLDER = "library", "hub", "folder"
_TIMM_SOURCES = {"hf-hub": HUB, "hf_hub": HUB, "local-dir": FOLDER}
_CHECKPOINTS = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")


def parse_model_spec(text: str) -> Spec:
    """A model spec taken apart, its options checked. A folder of exits needs no scheme.

    >>> parse_model_spec("timm:resnet18?classes=10").options["classes"]
    '10'

    Raises:
        ModelError: an unknown scheme or option, a value that it does not take, or options that
            exclude each other.
    """
    spec = parse_spec(_with_scheme(text), SCHEMES, what="model", error=ModelError)
    if not spec.target:
        raise ModelError(f"a model has a name, found none in {text!r}: add one after the colon")
    if spec.options.get("weights", "random") != "random":
        raise ModelError(
            f"weights are published, from ?checkpoint=FILE, or random, found "
            f"weights={spec.options['weights']!r}: give ?checkpoint=FILE or ?weights=random"
        )
    if "weights" in spec.options and "checkpoint" in spec.options:
        raise ModelError(f"weights come from one place, {text!r} names two: drop one of them")
    if spec.scheme == "py":
        _check_factory(spec)
    if spec.scheme == "onnx":
        OnnxOptions.parse(spec.options, text=spec.text)
    classes_of(spec)
    macs_of(spec)
    if "run" in spec.options:
        parse_options(spec.options["run"])
    return spec


def check_found(spec: Spec) -> None:
    """Refuse what a spec that you write names, where it is not there.

    Raises:
        ModelError: no such checkpoint, folder, module, or model of timm or torchvision.
    """
    checkpoint = spec.options.get("checkpoint")
    if checkpoint is not None and not _is_file(checkpoint):
        raise ModelError(
            f"weights are read from a file, {checkpoint[:200]!r} is none: check the path"
        )
    if spec.scheme == "exits":
        _check_exits(spec)
    if spec.scheme == "onnx" and not _is_file(spec.target):
        raise ModelError(f"an ONNX model is a file, {spec.target[:200]!r} is none: check the path")
    source, place = source_of(spec)
    if source == FOLDER:
        _check_folder(spec, place)
    elif source == HUB and not _HUB_NAME.fullmatch(place.partition("@")[0]):
        raise ModelError(
            f"models on the hub of Hugging Face are named OWNER/NAME, found {place[:200]!r}: check "
            "the name, or the path of the folder"
        )
    elif source == LIBRARY:
        check_name(spec.scheme, spec.target)
    if spec.scheme == "py":
        module = spec.target.rpartition(":")[0]
        if not _is_module(module):
            raise ModelError(
                f"{spec.text!r} names the module {module!r}, which is not there: run in its "
                "folder, or install it"
            )


def source_of(spec: Spec) -> tuple[str, str]:
    """Whence a model comes: the LIBRARY itself, the HUB or a FOLDER; and its name or path there.

    >>> source_of(parse_model_spec("timm:hf-hub:timm/resnet18.a1_in1k"))
    ('hub', 'timm/resnet18.a1_in1k')
    >>> source_of(parse_model_spec("hf:./nowhere/at/all"))
    ('folder', './nowhere/at/all')
    """
    if spec.scheme == "hf":
        is_path = existing(spec.target) is not None or spec.target.startswith(("/", ".", "~"))
        return (FOLDER if is_path else HUB), spec.target
    if spec.scheme == "timm":
        prefix, colon, rest = spec.target.partition(":")
        if colon:
            return _TIMM_SOURCES.get(prefix, LIBRARY), rest
    return (LIBRARY if spec.scheme in HUBS else spec.scheme), spec.target


def has_safetensors(folder: Path) -> bool:
    """Whether a folder has weights as safetensors, in one file or in several.

    >>> has_safetensors(Path("nowhere/at/all"))
    False
    """
    names = ("model.safetensors", "model.safetensors.index.json")
    return any((folder / name).is_file() for name in names)


def named_specs(texts: Sequence[str]) -> dict[str, Spec]:
    """Exit name -> spec, from texts ``SPEC`` or ``NAME=SPEC``.

    An exit is named after the model or the factory unless a name stands before the spec; a network
    of ``exits:DIR`` has the name recorded in its folder.

    >>> [*named_specs(["timm:resnet18", "big=py:nets:large?checkpoint=a=b.pt"])]
    ['resnet18', 'big']

    Raises:
        ModelError: not a model spec, or two exits of one name.
    """
    named: dict[str, Spec] = {}
    for text in texts:
        match = re.fullmatch(r"([^:=?]+)=(.*)", text, re.DOTALL)
        spec = parse_model_spec(match[2] if match else text)
        name = match[1] if match else _default_name(spec)
        if name in named:
            raise ModelError(
                f"exit names are unique, {str(named[name])!r} and {spec.text!r} are both {name!r}: "
                "name one, as in NAME=SPEC"
            )
        named[name] = spec
    return named


def modules_of(texts: Iterable[str]) -> set[str]:
    """The modules that specs ``SPEC`` or ``NAME=SPEC`` import.

    >>> modules_of(["timm:resnet18", "big=py:nets.large:big?weights=random"])
    {'nets.large'}

    Raises:
        ModelError: not a model spec.
    """
    specs = named_specs(list(texts)).values()
    return {spec.target.rpartition(":")[0] for spec in specs if spec.scheme == "py"}


def classes_of(spec: Spec) -> int | None:
    """The number of classes that a spec asks for; None where it leaves that to the model.

    Raises:
        ModelError: no number, or too large a one.
    """
    text = spec.options.get("classes")
    if text is None:
        return None
    if re.fullmatch(r"[1-9][0-9]{0,6}", text) is None or int(text) > MOST_CLASSES:
        raise ModelError(
            f"classes is a whole number above 0, found {text[:80]!r} in {spec.text[:80]!r}: give "
            f"the number of classes of the checkpoint, {MOST_CLASSES:,} at most"
        )
    return int(text)


def macs_of(spec: Spec) -> float | None:
    """The multiply-adds for one image that a spec gives; None where it leaves them out.

    Raises:
        ModelError: no number from 0.
    """
    text = spec.options.get("macs")
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise ModelError(
            f"macs is a number from 0, found {text[:80]!r} in {spec.text[:80]!r}: give the "
            "multiply-adds for one image, such as macs=4.1e9"
        )
    return found


def _check_factory(spec: Spec) -> None:
    module, colon, factory = spec.target.rpartition(":")
    if not colon or not module or not factory:
        raise ModelError(
            f"a Python model reads py:module:factory, found {spec.text!r}: name the module and the "
            "function in it that makes the model"
        )


def _check_exits(spec: Spec) -> None:
    folder = existing(spec.target)
    if folder is None or not (folder / EXITS).is_file():
        found = "does not exist" if folder is None else f"has no {EXITS}"
        raise ModelError(
            f"exits are in a folder that `understudy train-exits` wrote, {spec.target!r} {found}: "
            "check the path"
        )


def _check_folder(spec: Spec, path: str) -> None:
    folder = existing(path)
    if folder is None or not (folder / CONFIG).is_file():
        found = "does not exist" if folder is None else f"has no {CONFIG}"
        hub = " (on the hub: OWNER/NAME)" if spec.scheme == "hf" else ""
        raise ModelError(
            f"{spec.scheme}: models are in a folder with their {CONFIG}, {path[:200]!r} {found}: "
            f"check the path{hub}"
        )
    published = "weights" not in spec.options and "checkpoint" not in spec.options
    if spec.scheme == "hf" and published and not has_safetensors(folder):
        raise ModelError(
            f"weights are safetensors, {path[:200]!r} has no model.safetensors (pickles are never "
            "read): convert it with model.save_pretrained(FOLDER) where you trust it"
        )


def _default_name(spec: Spec) -> str:
    if spec.scheme == "exits":
        _check_exits(spec)
        from understudy.early_exit.serialization import ExitFolder

        return ExitFolder.read(spec.target).name
    name = spec.target.rpartition(":")[2]
    if spec.scheme == "onnx":
        return Path(spec.target).stem
    if source_of(spec)[0] in (HUB, FOLDER):
        path = existing(name)
        return Path(name).name or (name if path is None else path.resolve().name)
    return name


def _with_scheme(text: str) -> str:
    """The text with the scheme of what it names, where it has none.

    Raises:
        ModelError: it names what is no model; the message has what to write.
    """
    scheme, colon, rest = text.partition(":")
    if scheme in SCHEMES:
        return text
    name = text.partition("?")[0]
    path = existing(name)
    if path is not None and (path / EXITS).is_file():
        return f"exits:{text}"
    if path is not None and path.is_file():
        raise ModelError(f"{_rule(text)}, which is a file: {_of_file(path)}")
    if path is not None and (path / TAUGHT).is_file():
        raise ModelError(
            f"{_rule(text)}, a folder of a taught model: take the spec in its {TAUGHT}"
        )
    if path is not None and (path / CONFIG).is_file():
        raise ModelError(f"{_rule(text)}, which is a folder: write {_of_folder(path, text)}")
    if colon and rest.partition("?")[0].isidentifier() and _is_module(scheme):
        raise ModelError(f"{_rule(text)}: write py:{text}")
    if colon:
        return text  # of an unknown scheme
    hubs = [f"{hub}:{text}" for hub in hubs_with(name)] or near_names(name)
    if "/" in name and path is None and _HUB_NAME.fullmatch(name):
        hubs = [f"hf:{text}", f"timm:hf-hub:{text}"]
    if hubs:
        raise ModelError(f"{_rule(text)}: write {' or '.join(hubs)}")
    raise ModelError(
        f"{_rule(text)}: begin with one of {', '.join(f'{name}:' for name in SCHEMES)}"
    )


def _rule(text: str) -> str:
    return f"model specs read SCHEME:NAME, found {text!r}"


def _of_folder(path: Path, text: str) -> str:
    """What to write for a model that is in a folder: models of timm name their architecture."""
    with suppress(OSError, ValueError):
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if isinstance(config, dict) and "architecture" in config and "model_type" not in config:
            return f"timm:local-dir:{text}"
    return f"hf:{text}"


def _of_file(path: Path) -> str:
    """What to write for a model that is in a file."""
    if path.suffix.lower() in _CHECKPOINTS:
        return f"name the architecture that it has weights of, as in timm:NAME?checkpoint={path}"
    if path.suffix == ".py":
        return f"write py:{path.stem}:FACTORY"
    if path.suffix.lower() == ".onnx":
        return f'write "onnx:{path}?mean=...&std=..."'
    return f"begin with one of {', '.join(f'{name}:' for name in SCHEMES)}"


def _is_module(name: str) -> bool:
    """Whether a module, or the package around it, can be found; neither is imported."""
    top = name.partition(".")[0]
    with import_path(None), suppress(ValueError, ImportError):
        return find_spec(top) is not None
    return False


def _is_file(path: str) -> bool:
    found = existing(path)
    return found is not None and found.is_file()
