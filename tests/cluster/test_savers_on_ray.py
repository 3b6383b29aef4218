"""The best savers by actors on a local Ray are those of one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import ray

from ray_nodes import RayNodes
from tables import synthetic
from understudy.cluster.connection import ClusterError, connected
from understudy.cluster.savers import savers_on_ray
from understudy.searching.best_savers import best_savers
from understudy.searching.saver_lines import SaverLines, Steps
from understudy.store import open_table, save_table

pytestmark = pytest.mark.slow
DROPS = (1.0, 3.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_table(synthetic(1500, exits=12), tmp_path / "table")
    return tmp_path / "table"


@pytest.fixture
def joined(nodes: RayNodes) -> Iterator[None]:
    with connected(nodes.address):
        yield


@pytest.mark.usefixtures("joined")
def test_the_lines_are_those_of_one_process(folder: Path) -> None:
    table = open_table(folder)
    found = best_savers(table, DROPS, workers=partial(savers_on_ray, folder))
    assert found.to_dict() == best_savers(table, DROPS).to_dict()


@pytest.mark.usefixtures("joined")
def test_an_actor_that_ends_is_started_again(folder: Path) -> None:
    table, killed = open_table(folder), list[str]()

    @contextmanager
    def ending(lines: SaverLines) -> Iterator[Steps]:
        with savers_on_ray(folder, lines) as steps:

            def advance(name: str, done: int, total: int) -> None:
                if name not in killed:
                    killed.append(name)
                    ray.kill(steps.actors[0], no_restart=False)

            yield Killing(steps, advance)

    class Killing:
        def __init__(self, steps: Steps, advance: object) -> None:
            self.promising = lambda _: steps.promising(advance)  # type: ignore[arg-type]
            self.lines = lambda pairs, _: steps.lines(pairs, advance)  # type: ignore[arg-type]

    found = best_savers(table, DROPS, workers=ending)
    assert killed == ["pairs", "sequences"]
    assert found.to_dict() == best_savers(table, DROPS).to_dict()


@pytest.mark.usefixtures("joined")
def test_a_node_without_the_table_or_with_another_one_is_one_sentence(
    folder: Path, tmp_path: Path
) -> None:
    table = open_table(folder)
    with pytest.raises(ClusterError, match=r"every node reads the table.*is none"):
        best_savers(table, DROPS, workers=partial(savers_on_ray, tmp_path / "none"))
    save_table(synthetic(1400, exits=12), tmp_path / "other")
    with pytest.raises(ClusterError, match="the same table"):
        best_savers(table, DROPS, workers=partial(savers_on_ray, tmp_path / "other"))
