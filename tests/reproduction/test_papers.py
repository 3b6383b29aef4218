"""The papers as data: what is read, what is refused, and that every model is there."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from understudy.errors import DataError, ModelError
from understudy.json_codec import decode
from understudy.reproduction.papers import FILE, NAMES, OURS, Papers, load_paper, load_papers
from understudy.zoo.model_specs import check_found, named_specs

ROWS = [(name, row) for name in NAMES for row in load_paper(name).rows]


def changed(**fields: Any) -> Papers:
    """The papers, where the first row of DyCE has other fields."""
    data = tomllib.loads(FILE.read_text(encoding="utf-8"))
    data["papers"]["dyce"]["rows"][0].update(fields)
    return decode(data, Papers, what="the papers", error=DataError)


@pytest.mark.parametrize(("paper", "row"), ROWS, ids=[row.name for _, row in ROWS])
def test_every_model_is_in_its_library(paper: str, row: Any) -> None:
    if row.missing:
        assert row.name == "internimage_g"
        return
    for spec in named_specs(list(row.models().values())).values():
        check_found(spec)
    assert [*row.models()][-1] == row.reference
    assert len(row.models()) == len(row.savers) + 1


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "row"), ROWS, ids=[row.name for _, row in ROWS])
def test_every_set_of_weights_is_published(paper: str, row: Any) -> None:
    import timm

    for spec in (*row.savers, row.big):
        if spec.startswith("timm:"):
            config = timm.get_pretrained_cfg(spec.removeprefix("timm:"))
            assert config is not None
            assert config.tag == spec.partition(".")[2]
            assert config.num_classes == 1000


def test_what_is_ours_is_marked_and_explained() -> None:
    for _, row in ROWS:
        if OURS in (row.big_source, row.savers_source):
            assert "not known" in row.note
    assert load_papers().sources[OURS] == "chosen by this project"


def test_published_figures_agree_with_one_another() -> None:
    for _, row in ROWS:
        for one in row.figures:
            if one.drop is not None:
                assert one.drop == pytest.approx(one.max_drop, abs=0.01)
            if one.gmacs and one.base_gmacs and one.saving:
                assert one.saving == pytest.approx(1 - one.gmacs / one.base_gmacs, abs=0.001)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bigg": "timm:resnet18"}, "has the fields name, figures"),
        ({"figures": [{"max_drop": "0.5", "source": "abstract"}]}, r"figures\[0\].max_drop"),
        ({"figures": [{"max_drop": 0.5, "source": "hearsay"}]}, "no source 'hearsay'"),
        ({"missing": "gone"}, "has both"),
        ({"name": "davit_base"}, "names of their own"),
    ],
)
def test_data_are_read_strictly(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        changed(**fields)


def test_a_row_that_has_nothing_to_answer_early() -> None:
    data = tomllib.loads(FILE.read_text(encoding="utf-8"))
    del data["papers"]["dyce"]["rows"][0]["exits"]
    with pytest.raises(DataError, match="savers or exits, 'resnet152' has neither"):
        decode(data, Papers, what="the papers", error=DataError)


def test_unknown_names() -> None:
    with pytest.raises(DataError, match="no row 'resnet125'; did you mean 'resnet152'"):
        load_paper("dyce").select(["resnet125"])
    with pytest.raises(DataError, match="no paper 'msdnet'"):
        load_paper("msdnet")
    with pytest.raises(ModelError, match="found 'none'"):
        load_paper("dyce").rows[0].models("none")
