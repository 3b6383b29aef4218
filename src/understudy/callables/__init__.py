"""Cascades of functions and estimators, without PyTorch: scikit-learn, XGBoost, text, APIs."""

from understudy.lazy_imports import lazy_names

_MODULES = {
    "CallableCascade": "understudy.callables.cascade",
    "CallableStage": "understudy.callables.stage",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605
__getattr__ = lazy_names(__name__, _MODULES)
