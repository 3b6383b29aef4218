"""Watching a cascade that runs: has the traffic shifted, and is what was promised still kept?"""

from understudy.lazy_imports import lazy_names

_MODULES = {
    "Decision": "understudy.monitoring.decisions",
    "History": "understudy.monitoring.history",
    "ShadowTicket": "understudy.monitoring.watch",
    "Watch": "understudy.monitoring.watch",
    "WatchSettings": "understudy.monitoring.settings",
    "replay": "understudy.monitoring.history",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605
__getattr__ = lazy_names(__name__, _MODULES)
