"""Scoring and building models in memory, whatever they are: PyTorch is imported for its modules
alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy.typing as npt

from understudy.callables.cascade import CallableCascade, build_callables
from understudy.callables.scoring import BATCH, score_callables
from understudy.ensemble import Ensemble
from understudy.errors import DataError, ModelError
from understudy.policy import Policy
from understudy.result import Result
from understudy.runtime.loader_batch import class_names_in
from understudy.scores import ScoreTable

if TYPE_CHECKING:
    from torch import nn

    from understudy.nn.cascade import Cascade


def score(
    models: Mapping[str, Any],
    data: Any,
    labels: Any = None,
    *,
    costs: Mapping[str, Any] | None = None,
    classes: Sequence[Any] | npt.NDArray[Any] | None = None,
    ids: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    split: Mapping[str, float] | Sequence[str] | None = None,
    keep_logits: bool = True,
    measure: int | Sequence[int] = (),
    progress: bool = True,
    batch_size: int = BATCH,
) -> ScoreTable:
    """Run every model on all samples and keep the outputs.

    Models are PyTorch modules, or functions and estimators (scikit-learn, XGBoost, text pipelines,
    calls of an API), which need no PyTorch.

    Modules run in eval mode, and are back in their own mode afterwards. What they write into their
    input changes neither the batches nor the scores of other models.

    Args:
        models: exit name -> a module, which takes images as they are, a `Stage`, or an
            `ExitNetwork`, which is scored at all its exits; or for all of them a function from
            samples to probabilities (N, C), a method such as ``estimator.predict_proba``, a fitted
            classifier, or a `callables.CallableStage`.
        data: batches ``(images, labels)``, dictionaries such as ``{"pixel_values": images,
            "labels": labels}``, or images alone, as of a torch DataLoader, or a data set of Hugging
            Face. Or all samples at once: an array, a data frame, a sparse matrix, a list of texts
            or of dictionaries. Images are what the models take: uint8 (N, C, H, W) or a list of (C,
            H, W) for stages with preprocessing, tensors for plain modules.
        labels: (N,) class numbers, or names of `classes`, where all samples are given at once.
        costs: {unit: {part: cost}}, or {part: cost} for MACs. By default those of modules are the
            MACs counted on the first image, those of functions are those of their stages, or calls
            of the most accurate one. A model is one part of its own name.
        classes: the names of the classes; by default those of estimators, or of the loader's data
            set.
        ids: (N,) unique names of the samples; row numbers by default.
        groups: (N,) names; samples of one group share a split.
        split: shares of tune, certify and test, or (N,) split names; by default
            .2, .6 and .2, or .2 and .8 without test below 5,000 samples.
        keep_logits: keep all logits, as float16.
        measure: batch sizes at which ms per sample are measured afterwards, as the units
            ``ms@SIZE``: all models in turns, on the first images.
        progress: show a bar of the batches, where stderr is a terminal or in a notebook.
        batch_size: how many samples are run together where all are given at once.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.naive_bayes import GaussianNB
    >>> rows, labels = load_iris(return_X_y=True)
    >>> tiny = GaussianNB().fit(rows, labels)
    >>> big = LogisticRegression(max_iter=999).fit(rows, labels)
    >>> table = score({"tiny": tiny, "big": big.predict_proba}, rows, labels,
    ...               costs={"tiny": 1, "big": 9})
    >>> table.prediction.shape
    (2, 150)

    Raises:
        ModelError: no model, one that returns no finite logits (N, C), models whose classes differ,
            modules together with functions, or a module whose logits for an image depend on chance
            or on the rest of a batch.
        StageFailed: a function raised.
        DataError: no sample, labels that are no classes, or that the models cannot answer, or a
            batch size below 1.
        TableError: ids, groups, splits or costs that do not fit.
    """
    if labels is None and hasattr(data, "features") and hasattr(data, "iter"):
        classes = class_names_in(data) if classes is None else classes  # of Hugging Face
        data = data.iter(batch_size)
    options: dict[str, Any] = {
        "costs": costs,
        "classes": None if classes is None else list(classes),
        "ids": ids,
        "groups": groups,
        "split": split,
        "keep_logits": keep_logits,
        "measure": measure,
        "progress": progress,
    }
    if not are_modules(models):
        return score_callables(models, data, labels, batch_size=batch_size, **options)
    from understudy.scoring.in_memory import score as score_modules

    if labels is not None:
        data = _batches(data, labels, batch_size)
    return score_modules(models, data, **options)


@overload
def build(
    plan: Policy | Result,
    models: Mapping[str, nn.Module | Ensemble],
    *,
    max_drop: float | None = None,
) -> Cascade: ...
@overload
def build(
    plan: Policy | Result, models: Mapping[str, Any], *, max_drop: float | None = None
) -> CallableCascade: ...
def build(
    plan: Policy | Result, models: Mapping[str, Any], *, max_drop: float | None = None
) -> Cascade | CallableCascade:
    """A cascade of models in memory that executes a policy, or the choice of a search.

    Ensembles and learned scores are those of the result; with a bare policy an `Ensemble` is given
    among the models. Training and eval modes of modules stay as they are until the cascade runs,
    which puts its models into eval mode. Modules may be compiled, before or after:
    `model.compile()`.

    Args:
        plan: the policy, or a result with one choice per budget.
        models: exit name -> model, as `score` takes them; all of them become stages, so that the
            policy can be switched.
        max_drop: the budget in points whose choice is taken; by default the first.

    >>> build(Policy.single("tiny"), {"tiny": lambda rows: rows}).exits
    ('tiny',)

    Raises:
        ModelError: a model that the policy names is missing, or is not the one that was scored: in
            weights, preprocessing, precision or execution mode, as far as the result records them.
            Functions cannot be compared, estimators by their type and number of features.
        PolicyError: no choice for that budget.
    """
    if not are_modules(models):
        return build_callables(plan, models, max_drop=max_drop)
    from understudy.nn.cascade import build as build_modules

    return build_modules(plan, models, max_drop=max_drop)


def are_modules(models: Mapping[str, Any]) -> bool:
    """Whether models are PyTorch modules rather than functions and estimators.

    Raises:
        ModelError: they are not given by name, or some are modules and some are not.
    """
    if not isinstance(models, Mapping):
        raise ModelError(
            f"models are given by name, {{NAME: model}}, found a {type(models).__name__}: name them"
        )
    torch = sys.modules.get("torch")  # where no one has imported it nothing is a module
    known = {n: model for n, model in models.items() if not isinstance(model, Ensemble)}
    modules = [n for n, one in known.items() if torch and isinstance(one, torch.nn.Module)]
    others = [name for name in known if name not in modules]
    if modules and others:
        raise ModelError(
            f"the models of a cascade are all PyTorch modules or none, found the module "
            f"{modules[0]!r} beside {others[0]!r}: give a function in place of the module, such as "
            "lambda rows: net(torch.as_tensor(rows)).softmax(1)"
        )
    return bool(modules)


def _batches(data: Any, labels: Any, size: int) -> Iterator[tuple[Any, Any]]:
    """Images that are given at once, with their labels, in batches."""
    if not hasattr(data, "shape"):
        data = list(data)
    if len(data) != len(labels):
        raise DataError(
            f"there is a label for each image, found {len(labels)} labels for {len(data)} images: "
            "give both of the same samples"
        )
    return ((data[at : at + size], labels[at : at + size]) for at in range(0, len(data), size))
