"""Serving: a cascade behind HTTP, for any ASGI server (Starlette); never imports PyTorch."""

from understudy.extras import require
from understudy.lazy_imports import lazy_names

require("starlette", "orjson", "prometheus_client", "python_multipart", purpose=__name__)

_MODULES = {
    "ServingApp": "understudy.serving.asgi",
    "ServingSettings": "understudy.serving.settings",
    "app": "understudy.serving.asgi",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605
__getattr__ = lazy_names(__name__, _MODULES, extra="serve")
