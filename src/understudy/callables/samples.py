"""Samples of any kind by rows: arrays, data frames, sparse matrices, lists of texts or of dicts.

Functions get samples as they came, in the same type. In between, numeric arrays stay arrays, which
the runtime copies into its buffers; of everything else it handles the numbers of rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError
from understudy.extras import needing
from understudy.runtime.loader_batch import LoaderBatch, is_array, taken_apart

Array = npt.NDArray[Any]
Index = slice | Array


class SampleRow(NamedTuple):
    """One row of a source of samples, which stays where it is."""

    source: Any
    row: int


class SampleRows(Sequence[SampleRow]):
    """Adjacent rows of a source of samples.

    >>> rows = SampleRows(["a", "b", "c"])[1:]
    >>> len(rows), rows[0].row, rows.samples()
    (2, 1, ['b', 'c'])
    """

    def __init__(self, source: Any, start: int = 0, stop: int | None = None) -> None:
        self._source, self._start = source, start
        self._stop = row_count(source) if stop is None else stop

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, place: int) -> SampleRow: ...
    @overload
    def __getitem__(self, place: slice) -> SampleRows: ...
    def __getitem__(self, place: int | slice) -> SampleRow | SampleRows:
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return SampleRows(self._source, self._start + start, self._start + max(start, stop))
        return SampleRow(self._source, self._start + range(len(self))[place])

    def samples(self) -> Any:
        """The rows, in the type of the source; the source itself where these are all of its."""
        if len(self) == row_count(self._source):
            return self._source
        return rows_at(self._source, slice(self._start, self._stop))


def row_count(source: Any) -> int:
    """The number of rows; that of a sparse matrix has no `len`."""
    return int(source.shape[0]) if hasattr(source, "shape") else len(source)


def is_numeric_array(samples: Any) -> bool:
    """Whether samples are an array of numbers, whose rows can be copied from array to array."""
    return isinstance(samples, np.ndarray) and samples.ndim > 0 and samples.dtype.kind in "biufc"


def samples_of(loaded: Any) -> LoaderBatch:
    """Samples and labels of a batch: ``(samples, labels)``, a dictionary of both as of Hugging
    Face's loaders, or samples alone.

    >>> samples_of((["good", "bad"], [1, 0])).labels
    [1, 0]
    >>> samples_of(["good", "bad"]).labels is None
    True

    Raises:
        DataError: something else.
    """
    if isinstance(loaded, Mapping):
        return taken_apart(loaded)
    pair = isinstance(loaded, tuple | list) and len(loaded) == 2
    if pair and (isinstance(loaded, tuple) or all(map(is_array, loaded))):
        return LoaderBatch(*loaded)  # PyTorch's loaders make a list of both
    return LoaderBatch(loaded, None)


def as_rows(samples: Any) -> Any:
    """Samples as the runtime handles them: an array of numbers, or `SampleRows`.

    Raises:
        DataError: no sample, or no rows that can be indexed.
    """
    if hasattr(samples, "detach"):  # a tensor of PyTorch
        samples = samples.detach().cpu().numpy()
    if is_numeric_array(samples) or isinstance(samples, SampleRows):
        rows = samples
    elif isinstance(samples, list) and samples and isinstance(samples[0], SampleRow):
        return samples
    elif hasattr(samples, "tocsr"):
        rows = SampleRows(samples.tocsr())
    elif hasattr(samples, "__array__") and not hasattr(samples, "__getitem__"):
        return as_rows(np.asarray(samples))
    elif hasattr(samples, "__arrow_c_stream__") and not hasattr(samples, "__getitem__"):
        with needing("reading Arrow tables"):
            import polars as pl

        rows = SampleRows(pl.DataFrame(samples))
    else:
        indexed = hasattr(samples, "__getitem__") and not isinstance(samples, str | bytes | Mapping)
        if not indexed or getattr(samples, "shape", (1,)) == ():
            raise DataError(
                "samples are rows: an array, a data frame, a sparse matrix, or a list of texts or "
                f"of dictionaries, found one {type(samples).__name__}: give a list"
            )
        rows = SampleRows(samples)
    if not len(rows):
        raise DataError("a batch has at least one sample, found none")
    return rows


def as_request(sample: Any) -> Any:
    """One sample as the runtime handles it: a row of numbers as an array, or a `SampleRow`.

    A data frame or sparse matrix of one row is a sample, too.

    Raises:
        DataError: a data frame or sparse matrix of another number of rows.
    """
    if isinstance(sample, np.ndarray) and is_numeric_array(sample[None]):
        return sample
    if not hasattr(sample, "shape") or len(sample.shape) < 2:
        return SampleRow([sample], 0)
    if row_count(sample) != 1:
        raise DataError(
            f"a request is one sample, found a {type(sample).__name__} of {row_count(sample)} "
            "rows: give one row, or use `answer` for a batch"
        )
    return as_rows(sample)[0]


def assembled(rows: Any) -> Any:
    """What `as_rows` made of samples, or rows of several such, as a function takes them: one array,
    data frame, matrix or list.

    >>> texts, others = SampleRows(["a", "b"]), SampleRows(["c"])
    >>> assembled([texts[1], others[0]])
    ['b', 'c']
    """
    if isinstance(rows, np.ndarray):
        return rows
    if isinstance(rows, SampleRows):
        return rows.samples()
    return _joined(list(_pieces(rows)))


def _pieces(rows: Iterable[SampleRow]) -> Iterator[Any]:
    """The rows of each source, in runs of one source."""
    for _, run in groupby(rows, key=lambda one: id(one.source)):
        same = list(run)
        yield rows_at(same[0].source, np.array([one.row for one in same]))


def rows_at(source: Any, index: Index) -> Any:
    """Some rows, in the type of the source.

    >>> rows_at(["a", "b", "c"], np.array([2, 0]))
    ['c', 'a']
    """
    if hasattr(source, "iloc"):
        return source.iloc[index]
    if hasattr(source, "column_names"):  # a table of Arrow
        return source.take(np.arange(len(source))[index])
    if hasattr(source, "shape"):
        return source[index]
    if isinstance(index, slice):
        return [source[row] for row in range(*index.indices(len(source)))]
    return [source[row] for row in index.tolist()]


def _joined(pieces: list[Any]) -> Any:
    """Pieces one after another, in their type."""
    first = pieces[0]
    library = type(first).__module__.partition(".")[0]
    if len(pieces) == 1:
        return first
    if isinstance(first, list):
        return [row for piece in pieces for row in piece]
    joined: Any
    if library == "pandas":
        import pandas as pd  # type: ignore[import-untyped,import-not-found,unused-ignore]

        joined = pd.concat(pieces)
    elif library == "polars":
        import polars as pl

        joined = pl.concat(pieces)
    elif library == "pyarrow":
        import pyarrow as pa

        joined = pa.concat_tables(pieces)
    elif library == "scipy":
        from scipy.sparse import vstack

        joined = vstack(pieces, format="csr")
    else:
        joined = np.concatenate(pieces)
    return joined
