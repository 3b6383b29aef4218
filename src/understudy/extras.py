"""The extras: which packages each of them installs, and the error where one is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType

from understudy.errors import MissingExtra

_SEARCH = frozenset({"polars", "numba", "scipy", "sklearn", "jinja2"})
_TORCH = _SEARCH | {"torch", "torchvision", "safetensors", "PIL"}
_ZOO = _TORCH | {"timm"}
_HF = _TORCH | {"transformers", "datasets"}
_ONNX = frozenset({"onnxruntime", "PIL"})
_EXPORT = _TORCH | _ONNX | {"onnx", "onnxscript"}
_SERVE = frozenset(
    {"uvicorn", "starlette", "orjson", "prometheus_client", "python_multipart", "PIL"}
)
_PLOT = _SEARCH | {"altair", "vl_convert"}
_RAY = _TORCH | _SERVE | {"ray"}

EXTRAS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "search": _SEARCH,
        "torch": _TORCH,
        "zoo": _ZOO,
        "hf": _HF,
        "onnx": _ONNX,
        "export": _EXPORT,
        "serve": _SERVE,
        "ray": _RAY,
        "plot": _PLOT,
        "all": _ZOO | _HF | _EXPORT | _RAY | _PLOT,
    }
)
"""Extra -> the modules that it installs, as they are imported."""


def require(*modules: str, purpose: str) -> None:
    """Refuse to go on without some modules, which are looked for and not imported.

    >>> require("numpy", purpose="arithmetic")

    Raises:
        MissingExtra: one of them is not installed; the message has the extra that installs all.
    """
    missing = _absent(modules)
    if missing:
        raise MissingExtra(purpose, _extra_of(missing))


@contextmanager
def needing(purpose: str, *, extra: str | None = None, otherwise: str = "") -> Iterator[None]:
    """Raise `MissingExtra` where the block imports a module that an extra would install.

    Args:
        purpose: what needs it, as the message begins.
        extra: what the purpose needs as a whole, so that the message does not name one package
            after another.
        otherwise: a way out without installing anything, as the sentence ends.

    Raises:
        MissingExtra: the message has the extra that installs all that is missing.
    """
    try:
        yield
    except (ModuleNotFoundError, MissingExtra) as error:
        whole = EXTRAS.get(extra or "", frozenset())
        if isinstance(error, MissingExtra):
            if not whole.issuperset(EXTRAS[error.extra]):
                raise
            missing = _absent(whole)
        else:
            module = (error.name or "").partition(".")[0]
            if module not in EXTRAS["all"] or not _absent({module}):
                raise
            missing = _absent(whole | {module})
        raise MissingExtra(purpose, _extra_of(missing), otherwise=otherwise) from None


def installed(module: str) -> bool:
    """Whether a top-level module is installed; it is looked for and not imported.

    >>> installed("numpy"), installed("no_such_module")
    (True, False)
    """
    return find_spec(module) is not None


def _absent(modules: Collection[str]) -> set[str]:
    """Those of some modules that are not installed."""
    return {module for module in modules if not installed(module)}


def _extra_of(missing: Collection[str]) -> str:
    """The extra that installs what is missing, and the least beside it."""
    enough = [name for name, modules in EXTRAS.items() if modules.issuperset(missing)]
    return min(enough, key=lambda name: len(_absent(EXTRAS[name])))
