"""Exported cascades, made once per session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry

from exported_cascades import Exported
from onnx_nets import plain, saved
from understudy.nn.cascade import Cascade
from understudy.onnx.export import export_onnx


@pytest.fixture(scope="session", autouse=True)
def fast_exports() -> Iterator[None]:
    """Make exports of small models faster.

    The list of all operators is read once and not for each export, and the thousands of log records
    of a trace, which pytest would keep, are left out.
    """
    logging.getLogger("torch.__trace").disabled = True
    with pytest.MonkeyPatch.context() as patch:
        once = staticmethod(cache(ONNXRegistry.from_torchlib))
        patch.setattr(ONNXRegistry, "from_torchlib", once)
        yield
    logging.getLogger("torch.__trace").disabled = False


@pytest.fixture(scope="session")
def plain_export(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _exported(plain, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def saved_export(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _exported(saved, tmp_path_factory.mktemp("saved"))


def _exported(make: Callable[[], Cascade], folder: Path) -> Exported:
    cascade = make()
    export_onnx(cascade, folder / "onnx")
    return Exported(cascade, folder / "onnx")
