"""Records of DyCE and TinySaver: what is read, what it costs, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import DataError, TableError
from understudy.import_exits import from_strict, import_record
from understudy.outcome import evaluate
from understudy.policy import Policy, PolicyStage
from understudy.searching.exits import search_exits
from understudy.store import load_table, save_table

MACS: dict[str, Any] = {
    "head": [
        {"name": "mlp1", "macs": [4, 8, 16, 0], "params": []},
        {"name": "mlp3", "macs": [40, 80, 160, 0], "params": []},
    ],
    "backbone": {"name": "net", "macs": [100, 250, 700, 1000], "ori_macs": 1000},
}
SHARED = {"dim": 8, "macs": [50, 55, 60, 60]}


def record_of(samples: int = 40, rows: int = 7, kept: int = 1, seed: int = 0) -> dict[str, Any]:
    """Arrays as they are published, deeper rows better."""
    rng = np.random.default_rng(seed)
    hard = rng.random(samples)
    skill = np.linspace(0.5, 0.95, rows)[:, None]
    sure = -np.sort(-rng.random((rows, samples, kept)), axis=2).astype(np.float32)
    sure[:, :, 0] = np.maximum(1 - 0.5 * hard, sure[:, :, 0])
    preds = np.stack([(hard > skill).astype(np.int16) + k for k in range(kept)], axis=2)
    return {"label": np.zeros((samples, 1), np.int16), "preds": preds, "confs": sure}


def written(folder: Path, arrays: dict[str, Any], macs: dict[str, Any]) -> tuple[Path, Path]:
    np.savez_compressed(folder / "record.npz", **arrays)
    (folder / "macs.json").write_text(json.dumps(macs))
    return folder / "record.npz", folder / "macs.json"


def test_rows_are_position_major_and_types_fastest(tmp_path: Path) -> None:
    arrays = record_of()
    table = import_record(*written(tmp_path, arrays, MACS))
    assert table.names == (
        *("pos0/mlp1", "pos0/mlp3", "pos1/mlp1", "pos1/mlp3", "pos2/mlp1", "pos2/mlp3"),
        "base",
    )
    assert np.array_equal(table.prediction, arrays["preds"][:, :, 0])
    assert np.array_equal(table.scores("max_softmax"), arrays["confs"][:, :, 0])
    assert table.scores("max_softmax").dtype == np.float32
    assert table.right_answers("base").tolist() == [[0]] * 40
    assert table.provenance["backbone"] == "net"


def test_a_visitor_pays_the_trunk_once_and_every_head_that_is_on(tmp_path: Path) -> None:
    table = import_record(*written(tmp_path, record_of(), MACS))
    assert table.reference() == "base"
    assert table.cost_of(["pos1/mlp1"], "MACs") == 258
    assert table.cost_of(["pos0/mlp3", "pos1/mlp1"], "MACs") == 250 + 40 + 8
    assert table.cost_of(["pos0/mlp3", "pos1/mlp1", "base"], "MACs") == 1000 + 40 + 8
    assert table.cost_of(["base"], "MACs") == 1000


def test_shared_parts_are_paid_once_and_never_added_in_place(tmp_path: Path) -> None:
    """Reading the published record twice with the published code charged them twice."""
    files = written(tmp_path, record_of(), MACS | {"shared": SHARED})
    costs = []
    for _ in range(2):
        table = import_record(*files)
        costs.append([table.cost_of([name], "MACs") for name in table.names])
    assert costs[0] == costs[1] == [154, 190, 313, 385, 776, 920, 1000]
    both = table.cost_of(["pos0/mlp1", "pos2/mlp1", "base"], "MACs")
    assert both == 1000 + 60 + 4 + 16


def test_it_costs_what_dyce_says(tmp_path: Path) -> None:
    """Cost = trunk to where it leaves + all enabled heads up to there, sample by sample."""
    arrays = record_of(200)
    table = import_record(*written(tmp_path, arrays, MACS))
    enabled = [(0, 1, 0.9), (2, 0, 0.7)]
    sure = arrays["confs"][:, :, 0].astype(float)
    steps = [
        PolicyStage(f"pos{j}/mlp{1 + 2 * i}", from_strict(t, sure[2 * j + i]))
        for j, i, t in enabled
    ]
    paid = right = 0.0
    for sample in range(200):
        heads, end, row = 0, 1000, 6
        for j, i, t in enabled:
            heads += MACS["head"][i]["macs"][j]
            if sure[2 * j + i, sample] > t:
                end, row = MACS["backbone"]["macs"][j], 2 * j + i
                break
        paid += end + heads
        right += arrays["preds"][row, sample, 0] == 0
    outcome = evaluate(table, Policy((*steps, PolicyStage("base"))))
    assert outcome.cost["MACs"] == pytest.approx(paid / 200)
    assert outcome.accuracy == right / 200


def test_types_without_names_are_numbered(tmp_path: Path) -> None:
    heads = [{"macs": head["macs"]} for head in MACS["head"]]
    table = import_record(*written(tmp_path, record_of(), MACS | {"head": heads}))
    assert table.names[:3] == ("pos0/type0", "pos0/type1", "pos1/type0")


def test_names_can_be_given(tmp_path: Path) -> None:
    files = written(tmp_path, record_of(), MACS)
    names = list("abcdefg")
    table = import_record(*files, names=names)
    assert table.names == tuple(names)
    assert table.cost_of(["c"], "MACs") == 258
    for wrong in (names[:-1], [*names[:-1], "a"]):
        with pytest.raises(DataError, match="different exit names"):
            import_record(*files, names=wrong)


def test_more_classes_bring_margins_and_details(tmp_path: Path) -> None:
    arrays = record_of(kept=3)
    table = import_record(*written(tmp_path, arrays, MACS))
    expected = arrays["confs"][:, :, 0] - arrays["confs"][:, :, 1]
    assert np.array_equal(table.scores("margin"), expected)
    assert np.array_equal(table.details["base"].top_classes, arrays["preds"][-1])
    save_table(table, tmp_path / "table")
    assert load_table(tmp_path / "table").hash == table.hash


def test_a_record_can_be_searched(tmp_path: Path) -> None:
    table = import_record(*written(tmp_path, record_of(300), MACS | {"shared": SHARED}))
    frontier = search_exits(table.on("tune"), starts=1)
    assert frontier.reference == "base"
    assert frontier.points[0].cost < 1000


def test_lists_may_end_at_the_last_position(tmp_path: Path) -> None:
    short = {
        "head": [{"macs": head["macs"][:3]} for head in MACS["head"]],
        "backbone": {"macs": [100, 250, 700], "ori_macs": 1000},
    }
    table = import_record(*written(tmp_path, record_of(), short))
    assert table.exit_costs("MACs").tolist() == [104, 140, 258, 330, 716, 860, 1000]


def test_splits_and_ids_are_those_of_any_table(tmp_path: Path) -> None:
    files = written(tmp_path, record_of(), MACS)
    table = import_record(*files, split=["test"] * 40, ids=[f"i{n}" for n in range(40)])
    assert (table.split == 2).all()
    assert table.ids[3] == "i3"


def changed(**parts: Any) -> dict[str, Any]:
    return MACS | {"backbone": MACS["backbone"] | parts}


WRONG_MACS: dict[str, tuple[Any, str]] = {
    "rows": (MACS | {"head": [*MACS["head"], {"macs": [0] * 4}, {"macs": [0] * 4}]}, "7 rows"),
    "short": (changed(macs=[100, 250]), "backbone in .* has 2"),
    "long head": (MACS | {"head": [{"macs": [1] * 9}, {"macs": [1] * 3}]}, "'type0' in .* has 9"),
    "falling": (changed(macs=[100, 90, 700, 1000]), "backbone MACs are cumulative"),
    "full": (changed(ori_macs=600), "backbone MACs are cumulative"),
    "shared": (MACS | {"shared": {"macs": [3, 2, 1]}}, "shared MACs are cumulative"),
    "text": (changed(macs=["a", "b", "c"]), "could not convert"),
    "negative": (changed(macs=[-1, 2, 3]), "zero or more"),
    "no head": ({"backbone": MACS["backbone"]}, "has 'head'"),
    "no ori": (MACS | {"backbone": {"macs": [1, 2, 3]}}, "has 'ori_macs'"),
    "empty": (MACS | {"head": []}, "none"),
    "same": (MACS | {"head": [MACS["head"][0]] * 2}, "different names"),
    "list": ([1, 2], "is not"),
}


@pytest.mark.parametrize("case", WRONG_MACS)
def test_wrong_macs_are_one_sentence(tmp_path: Path, case: str) -> None:
    macs, words = WRONG_MACS[case]
    with pytest.raises(DataError, match=words):
        import_record(*written(tmp_path, record_of(), macs))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in record_of().items() if key != name}


WRONG_RECORDS = {
    "missing": (without("confs"), "lacks confs"),
    "samples": (record_of() | {"label": np.zeros((39, 1), np.int16)}, r"\(39,\)"),
    "flat": (record_of() | {"preds": np.zeros((7, 40), np.int16)}, r"\(7, 40\)"),
    "classes": (record_of() | {"confs": record_of(kept=2)["confs"]}, r"\(7, 40, 2\)"),
    "one row": (record_of(rows=1), "found 1 rows"),
    "empty": (record_of(samples=0), "at least one sample"),
    "pickled": (record_of() | {"label": np.array([{}] * 40)}, "nothing is unpickled"),
}


@pytest.mark.parametrize("case", WRONG_RECORDS)
def test_a_wrong_record_is_one_sentence(tmp_path: Path, case: str) -> None:
    arrays, words = WRONG_RECORDS[case]
    with pytest.raises(DataError, match=words):
        import_record(*written(tmp_path, arrays, MACS))


def test_pickled_meta_information_is_left_alone(tmp_path: Path) -> None:
    arrays = record_of() | {"meta_info": np.array({"a": 1}, dtype=object)}
    assert len(import_record(*written(tmp_path, arrays, MACS))) == 40


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04broken", b"\x80\x04N."])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    files = written(tmp_path, record_of(), MACS)
    files[0].write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        import_record(*files)


def test_a_single_array_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    files = written(tmp_path, record_of(), MACS)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="cannot be read"):
        import_record(tmp_path / "one.npy", files[1])
    with pytest.raises(DataError, match="is none"):
        import_record(tmp_path / "gone.npz", files[1])
    with pytest.raises(DataError, match="does not exist"):
        import_record(files[0], tmp_path / "gone.json")


def test_nan_and_odd_labels_are_refused(tmp_path: Path) -> None:
    arrays = record_of()
    arrays["confs"][2, 5, 0] = np.nan
    with pytest.raises(TableError, match="'pos1/mlp1' has 1 NaN"):
        import_record(*written(tmp_path, arrays, MACS))
    arrays = record_of() | {"label": np.full((40, 1), -2, np.int16)}
    with pytest.raises(TableError, match="labels are class numbers"):
        import_record(*written(tmp_path, arrays, MACS))


def test_a_label_of_minus_one_is_missing(tmp_path: Path) -> None:
    label = record_of()["label"].copy()
    label[::3] = -1
    table = import_record(*written(tmp_path, record_of() | {"label": label}, MACS))
    np.testing.assert_array_equal(table.labelled, label[:, 0] >= 0)
    nothing = record_of() | {"label": np.full((40, 1), -1, np.int16)}
    assert import_record(*written(tmp_path, nothing, MACS)).label is None


VALUES = st.one_of(st.sampled_from([0.0, 0.1, 0.5, 0.5 + 1e-16, 0.9, 1.0]), st.floats(0, 1))


@given(VALUES, st.lists(VALUES, min_size=1, max_size=8), st.booleans())
def test_strict_thresholds_accept_the_same(threshold: float, sure: list[float], low: bool) -> None:
    observed = np.array(sure, np.float32 if low else np.float64)
    found = from_strict(threshold, observed)
    wide = observed.astype(np.float64)
    assert ((wide > threshold) == (wide >= found)).all()
