"""Right answers as bits: the same in a file as in memory, and a damaged file is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from understudy.errors import TableError, UnderstudyError
from understudy.searching.all_pairs import all_pairs_of, search_all_pairs
from understudy.searching.right_bits import RightBits, open_right_bits, write_right_bits

Array = npt.NDArray[Any]


def zoo(models: int, samples: int) -> tuple[Array, Array, Array]:
    draw = np.random.default_rng(models)
    correct = draw.random((models, samples)) < draw.random((models, 1))
    confidence = draw.integers(0, 9, (models, samples)).astype(np.float32)
    return correct, confidence, draw.integers(0, models, models).astype(float)


def written(path: Path, models: int = 5, samples: int = 70) -> Array:
    correct, _, cost = zoo(models, samples)
    write_right_bits(path, correct.__getitem__, cost, samples, source="table")
    return correct


@pytest.mark.parametrize("models", [1, 7, 64, 513, 1030])
def test_each_row_comes_back(tmp_path: Path, models: int) -> None:
    correct = written(tmp_path / "bits", models)
    for bits in (
        open_right_bits(tmp_path / "bits", source="table"),
        RightBits.of(correct.__getitem__, zoo(models, 70)[2], 70),
    ):
        np.testing.assert_array_equal(np.stack([bits.row(n) for n in range(models)]), correct)
        assert bits.right.tolist() == correct.sum(1).tolist()
        assert bits.words.shape == (-(-models // 512), 70, 8)


@pytest.mark.parametrize("models", [6, 600])
def test_all_pairs_of_a_file_are_those_in_memory(tmp_path: Path, models: int) -> None:
    correct, confidence, cost = zoo(models, 70)
    written(tmp_path / "bits", models)
    bits = open_right_bits(tmp_path / "bits", source="table")
    found = all_pairs_of(bits, confidence.__getitem__, [0, 10, -3], threads=2)
    expected = search_all_pairs(correct, confidence, cost, [0, 10, -3])
    np.testing.assert_array_equal(found.accepted, expected.accepted)
    np.testing.assert_array_equal(found.threshold, expected.threshold)


def test_its_words_are_mapped_and_read_only(tmp_path: Path) -> None:
    written(tmp_path / "bits")
    bits = open_right_bits(tmp_path / "bits", source="table")
    assert isinstance(bits.words.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        bits.words[0] = 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "another hash"),
        (lambda data: data[64:], "bytes of words"),
        (lambda data: data[:-1], "does not end as one"),
        (lambda data: data[:20], "does not end as one"),
        (lambda _: b"", "does not end as one"),
        (lambda data: data.replace(b"right_bits", b"other_bits"), "no understudy.right_bits"),
        (lambda data: data.replace(b'"samples": 70', b'"samples": 71'), "bytes of words"),
        (lambda data: data.replace(b'"sha256"', b'"sha255"'), "sha256"),
    ],
)
def test_a_damaged_file_is_one_sentence(
    tmp_path: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    file = tmp_path / "bits"
    written(file)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(TableError, match=reason):
        open_right_bits(file, source="table")


def test_a_missing_file_and_one_of_another_table(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="No such file"):
        open_right_bits(tmp_path / "none", source="table")
    written(tmp_path / "bits")
    with pytest.raises(TableError, match="of another table: make it again"):
        open_right_bits(tmp_path / "bits", source="newer")


def test_a_full_disk_leaves_the_older_file(tmp_path: Path) -> None:
    correct = written(tmp_path / "bits")

    def full(model: int) -> Array:
        if model == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return correct[model]

    with pytest.raises(UnderstudyError, match="No space left on device"):
        write_right_bits(tmp_path / "bits", full, np.arange(5.0), 70, source="newer")
    assert len(open_right_bits(tmp_path / "bits", source="table")) == 5
    assert [file.name for file in tmp_path.iterdir()] == ["bits"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (np.ones(69, np.float32), r"\(70,\), model 0 has \(69,\)"),
        (np.ones(70, np.int64), "found int64"),
        (np.full(70, np.nan, np.float32), "model 0 has 70 NaN among 70"),
    ],
)
def test_rows_are_checked_when_they_are_read(row: Array, message: str) -> None:
    correct = zoo(2, 70)[0]
    bits = RightBits.of(correct.__getitem__, np.array([1.0, 2.0]), 70)
    with pytest.raises(TableError, match=message):
        all_pairs_of(bits, lambda _: row, [0])
