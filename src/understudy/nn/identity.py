"""What identifies a model: weights, preprocessing, precision, execution mode, and a sample answer.

A certificate holds for the models that were scored, so what is built and run is compared with what
was recorded of them. Records of older versions have fewer entries; those that are there count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from understudy.errors import ModelError, UnderstudyError, brief
from understudy.nn.execution_mode import ModelInMode
from understudy.nn.preprocess import Image, Preprocess
from understudy.nn.processor import preprocess_from
from understudy.nn.stage import INPUT, InputKind, Stage

SAMPLE = "sample"
LOGITS = 16  # of the sample answer that are recorded
TOLERANCE = {torch.float32: 0.03, torch.float64: 0.03}  # as a share of the largest logit
REDUCED = 0.15  # the same in other precisions


def identity_of(stage: Stage) -> dict[str, Any]:
    """Plain JSON that identifies what runs: `Stage.to_origin`, and the model's sample answer.

    >>> stage = Stage(torch.nn.Flatten(), preprocess=Preprocess((1, 2), (0.0,), (1.0,)))
    >>> [round(logit, 3) for logit in identity_of(stage)["sample"]]
    [0.067, 0.369]
    """
    answer = sample_answer(stage)
    return {**stage.to_origin(), **({} if answer is None else {SAMPLE: answer})}


def note_input(stage: Stage, sample: Image) -> None:
    """Record in a stage's origin which samples it takes, where its preprocessing sets no size.

    So that it has a sample answer. A model that cannot answer a fixed sample of that shape and
    dtype is left as it is.
    """
    preprocess = stage.preprocess
    if type(stage) is not Stage or (preprocess is not None and preprocess.size is not None):
        return
    kind = InputKind(tuple(sample.shape), sample.dtype)
    with suppress(ModelError):
        sample_answer(stage, kind)
        stage.origin = {**stage.origin, INPUT: kind.to_dict()}


def sample_answer(stage: Stage, kind: InputKind | None = None) -> list[float] | None:
    """The first logits for one fixed sample: an image of the size that the preprocessing makes, or
    else of the kind that is given, or that is recorded in the stage's origin.

    They notice code that changed while the weights did not. None where no kind is known, for
    several models at once, and where logits are not finite.

    Raises:
        ModelError: the model cannot answer that sample.
    """
    if type(stage) is not Stage:
        return None
    sample = _fixed_sample(stage.preprocess, kind or InputKind.of(stage.origin))
    if sample is None:
        return None
    model = stage.model.model if isinstance(stage.model, ModelInMode) else stage.model
    with answering(stage.spec or type(model).__name__):
        logits = Stage(model, preprocess=stage.preprocess)([sample])[0, :LOGITS].double()
    return logits.tolist() if bool(torch.isfinite(logits).all()) else None


def _fixed_sample(preprocess: Preprocess | None, kind: InputKind | None) -> Tensor | None:
    """A fixed sample, where its shape and dtype are known."""
    if preprocess is not None and preprocess.size is not None:
        return _pattern(len(preprocess.mean), *preprocess.size)
    if kind is None or not (kind.dtype == torch.uint8 or kind.dtype.is_floating_point):
        return None
    pattern = _pattern(*kind.shape)
    return (pattern.float() / 64 - 2).to(kind.dtype) if kind.dtype.is_floating_point else pattern


@contextmanager
def answering(name: str) -> Iterator[None]:
    """Runs a model for the first time: what it raises becomes one sentence.

    Raises:
        ModelError: the model raised, or left the process.
    """
    try:
        yield
    except UnderstudyError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"a model answers an image of its size, {name!r} raised {brief(error)}: correct its "
            "code, or the input that it declares"
        ) from error


def check_identity(
    name: str, recorded: Mapping[str, Any], stage: Stage, *, past: str, remedy: str
) -> None:
    """Refuse a stage that is another model than the one that was recorded.

    Args:
        name: of the exit, for the message.
        recorded: what `identity_of` gave; entries that are missing are not compared.
        stage: the model that is there now.
        past: what was done with the recorded one, such as "scored", for the message.
        remedy: the way out, for the message.

    >>> stage = Stage(torch.nn.Linear(4, 3))
    >>> check_identity("tiny", identity_of(stage), stage, past="scored", remedy="score it again")
    >>> check_identity("tiny", {"dtype": "float16"}, stage, past="scored", remedy="score it again")
    Traceback (most recent call last):
    understudy.errors.ModelError: 'tiny' is not the model that was scored, its dtype is 'float32'
    and was 'float16': score it again

    Raises:
        ModelError: the message has the first entry that differs, as it is and as it was.
    """
    found = difference(recorded, stage)
    if found is not None:
        made_from = "" if stage.spec is None else f" from {stage.spec!r}"
        raise ModelError(f"{name!r}{made_from} is not the model that was {past}, {found}: {remedy}")


def difference(recorded: Mapping[str, Any], stage: Stage) -> str | None:
    """The first entry that differs, in words; None where there is none."""
    now = stage.to_origin()
    if "preprocess" in recorded:
        found = _preprocess_difference(recorded["preprocess"], now["preprocess"])
        if found is not None:
            return found
    for key, what in (("dtype", "dtype"), ("run", "execution mode")):
        if key in recorded and recorded[key] != now.get(key, ""):
            return f"its {what} is {now.get(key, '')!r} and was {recorded[key]!r}"
    mode = f" in the mode {now['run']!r}" if "run" in now else ""
    if "weights_hash" in recorded and recorded["weights_hash"] != now["weights_hash"]:
        return (
            f"its weights{mode} have the hash {now['weights_hash'][:12]} and had "
            f"{str(recorded['weights_hash'])[:12]}"
        )
    return _answer_difference(recorded, stage)


def _preprocess_difference(recorded: Any, now: Any) -> str | None:
    if recorded is None or now is None:
        return None if recorded == now else f"its preprocessing is {now} and was {recorded}"
    before = preprocess_from(recorded).to_dict()  # with entries that an older version lacked
    for key in before | now:
        if now.get(key) != before.get(key):
            return f"its preprocessing has {key} {now.get(key)} and had {before.get(key)}"
    return None


def _answer_difference(recorded: Mapping[str, Any], stage: Stage) -> str | None:
    """A difference of the sample answers beyond rounding, which differs from device to device."""
    if not recorded.get(SAMPLE):
        return None
    answer = sample_answer(stage, InputKind.of(recorded))
    if answer is None:
        return None
    before, now = torch.tensor(recorded[SAMPLE]).double(), torch.tensor(answer).double()
    same = before.shape == now.shape
    off = float((before - now).abs().max() / before.abs().max().clamp_min(1e-9)) if same else 1.0
    if off <= TOLERANCE.get(stage.dtype, REDUCED):
        return None
    return (
        "its code answers otherwise with the same weights (logits for a fixed image are off by "
        f"{100 * off:.0f} % of the largest)"
    )


def _pattern(*shape: int) -> Tensor:
    """A fixed image, uint8 (C, H, W), by arithmetic: no generator that a version may change."""
    numbers = torch.arange(math.prod(shape), dtype=torch.int64)
    return ((numbers * numbers * 31 + numbers * 46 + 17) % 251).to(torch.uint8).reshape(shape)
