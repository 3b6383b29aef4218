"""A Ray cluster of several nodes on this machine, for tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_MARK = "UNDERSTUDY_TEST_NODES"  # in the environment of their processes


class RayNodes:
    """A cluster whose nodes come and go.

    Attributes:
        address: of its head.
    """

    def __init__(self, cluster: Any, folder: str) -> None:
        self._cluster = cluster
        self._folder = folder
        self.address: str = cluster.address

    @contextmanager
    def added(self, *, cores: int, python_path: Path | None = None) -> Iterator[Any]:
        """A further node; it ends with the block, if it has not been killed.

        Args:
            cores: that it has.
            python_path: where its processes look for modules first.
        """
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(_MARK, self._folder)
            if python_path is not None:
                patch.setenv("PYTHONPATH", str(python_path), prepend=":")
            node = self._cluster.add_node(num_cpus=cores, temp_dir=self._folder)
        try:
            yield node
        finally:
            if node in self._cluster.worker_nodes:
                self.kill(node)

    @property
    def actors(self) -> list[int]:
        """The processes of this cluster that score shards."""
        return self.processes("ray::ShardActor")

    def processes(self, name: str) -> list[int]:
        """The processes of this cluster whose command has a name."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                named = name.encode() in (place / "cmdline").read_bytes()
                if named and self._folder.encode() in (place / "environ").read_bytes():
                    found.append(int(place.name))
            except OSError:
                continue
        return found

    def kill(self, node: Any) -> None:
        """End all processes of a node at once."""
        self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def ray_nodes(*, cores: int) -> Iterator[RayNodes]:
    """A cluster with one node, its head."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray")  # short: it holds sockets
    head = {"num_cpus": cores, "temp_dir": folder, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_MARK, folder)
        cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield RayNodes(cluster, folder)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
