"""The executor on exported cascades: offline, with tensors, and for single requests."""

from __future__ import annotations

import numpy as np

from exit_nets import images
from exported_cascades import Exported
from online_requests import answer_each
from sample_rows import in_batches
from understudy.runtime.executor import Executor


def test_offline(saved_export: Exported) -> None:
    """The executor answers like the cascade, whatever the batches."""
    loaded, pixels = saved_export.load(), images(90, seed=5).numpy()
    expected = loaded.answer(pixels)
    with Executor(loaded, max_batch=16) as executor:
        blocks = list(executor.map(np.split(pixels, [1, 40, 47])))
    exits = np.concatenate([answers.exit for answers in blocks])
    predictions = np.concatenate([answers.prediction for answers in blocks])
    confidence = np.concatenate([answers.confidence for answers in blocks])
    assert exits.tolist() == expected.exit.tolist()
    assert predictions.tolist() == expected.prediction.tolist()
    np.testing.assert_allclose(confidence, expected.confidence, atol=1e-6)


def test_batches_of_tensors_fill_up(saved_export: Exported) -> None:
    """Loaders give tensors, buffers are arrays."""
    loaded, pixels = saved_export.load(), images(90, seed=5)
    with Executor(loaded, max_batch=32) as executor:
        blocks = list(executor.map(in_batches(pixels, [9])))
    assert executor.stats.batches[loaded.policy.exits[0]] == 3
    predictions = np.concatenate([answers.prediction for answers in blocks])
    assert predictions.tolist() == loaded.answer(pixels.numpy()).prediction.tolist()


def test_online(saved_export: Exported) -> None:
    loaded, pixels = saved_export.load(), images(40, seed=5).numpy()
    expected = loaded.answer(pixels)
    answers = answer_each(Executor(loaded, max_batch=8, max_wait_ms=1.0), pixels)
    assert [answer.prediction for answer in answers] == expected.prediction.tolist()
    assert [answer.exit for answer in answers] == expected.exit_names()


def test_logits_of_requests(saved_export: Exported) -> None:
    loaded, pixels = saved_export.load(), images(20, seed=5).numpy()
    executor = Executor(loaded, max_batch=20, max_wait_ms=1e5)
    answers = answer_each(executor, pixels, logits=True)
    for row, answer in enumerate(answers):
        assert answer.logits is not None
        assert answer.logits.dtype == np.float32
        expected = loaded.logits(answer.exit, pixels)[row]
        np.testing.assert_allclose(answer.logits, expected, atol=1e-5)
