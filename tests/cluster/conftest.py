"""One Ray cluster for all tests that need one: it takes some seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_nodes import RayNodes, ray_nodes


@pytest.fixture(scope="session")
def nodes() -> Iterator[RayNodes]:
    """A cluster of one node with one core."""
    with ray_nodes(cores=1) as found:
        yield found
