"""understudy: certified model cascades.

A tiny model, or an early exit inside a large one, answers the easy inputs; the large model answers
the rest. Every name is imported on first use, so that `import understudy` is light and only what
runs models loads PyTorch.
"""

from understudy.lazy_imports import lazy_names

__version__ = "0.1.0"

_MODULES = {
    "Answers": "understudy.runtime.protocol",
    "Cascade": "understudy.nn.cascade",
    "CascadeClassifier": "understudy.estimators.cascade_classifier",
    "Certificate": "understudy.certificate",
    "Executor": "understudy.runtime.executor",
    "ExitNetwork": "understudy.early_exit.network",
    "Frontier": "understudy.frontier",
    "Outcome": "understudy.outcome",
    "Policy": "understudy.policy",
    "Preprocess": "understudy.nn.preprocess",
    "Result": "understudy.result",
    "ScoreTable": "understudy.scores",
    "Stage": "understudy.nn.stage",
    "UnderstudyError": "understudy.errors",
    "attach": "understudy.early_exit.network",
    "build": "understudy.backends",
    "evaluate": "understudy.outcome",
    "load_cascade": "understudy.zoo.saved_cascades",
    "load_table": "understudy.store",
    "save_cascade": "understudy.zoo.saved_cascades",
    "save_table": "understudy.store",
    "score": "understudy.backends",
    "search": "understudy.searching.search",
    "verify": "understudy.searching.verify",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605


__getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return list(__all__)
