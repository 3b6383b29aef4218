"""Small cascades behind an app, and behind a server in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from served_cascades import saved_cascade

collect_ignore = ["kserve_client.py"]  # run by a test, in an environment of its own


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of PyTorch wait for each other for longer than such small models compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cascade_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved cascade of two networks with two operating points."""
    folder = tmp_path_factory.mktemp("served") / "pixels"
    saved_cascade(folder)
    return folder
