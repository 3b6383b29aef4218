from __future__ import annotations

import asyncio

import numpy as np

from exit_nets import images
from understudy.onnx.cascade import load_onnx
from understudy.runtime.executor import Executor


def test_offline(saved_export) -> None:
    """The executor gives what the cascade gives, whatever the batches."""
    other, pixels = load_onnx(saved_export[1], threads=1), images(90, seed=5).numpy()
    truth = other.answer(pixels)
    with Executor(other, max_batch=16) as executor:
        blocks = list(executor.map(np.split(pixels, [1, 40, 47])))
    assert np.concatenate([one.exit for one in blocks]).tolist() == truth.exit.tolist()
    assert np.concatenate([one.prediction for one in blocks]).tolist() == truth.prediction.tolist()
    sure = np.concatenate([one.confidence for one in blocks])
    np.testing.assert_allclose(sure, truth.confidence, atol=1e-6)


def test_batches_of_tensors_fill_up(saved_export) -> None:
    """Loaders give tensors, rooms are arrays."""
    other, pixels = load_onnx(saved_export[1], threads=1), images(90, seed=5)
    with Executor(other, max_batch=32) as executor:
        blocks = list(executor.map(pixels.split(9)))
    assert executor.stats.batches[other.policy.exits[0]] == 3
    truth = other.answer(pixels.numpy()).prediction
    assert np.concatenate([one.prediction for one in blocks]).tolist() == truth.tolist()


def test_online(saved_export) -> None:
    other, pixels = load_onnx(saved_export[1], threads=1), images(40, seed=5).numpy()
    truth = other.answer(pixels)

    async def asked():
        async with Executor(other, max_batch=8, max_wait_ms=1.0) as executor:
            return await asyncio.gather(*(executor.answer(image) for image in pixels))

    answers = asyncio.run(asked())
    assert [one.prediction for one in answers] == truth.prediction.tolist()
    assert [one.exit for one in answers] == truth.exit_names()
