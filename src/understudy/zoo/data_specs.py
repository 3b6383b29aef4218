"""Data specs: ``folder:DIR``, ``parquet:FILE``, ``digits:``, or the path alone; checked without
reading an image, or importing what could."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from understudy.errors import DataError, unknown
from understudy.zoo.decoding import ORIENTATIONS
from understudy.zoo.spec import Spec, existing, parse_spec

SCHEMES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "folder": ("orientation", "fingerprint"),
        "parquet": ("image", "label", "key", "group", "orientation", "fingerprint"),
        "digits": (),
    }
)
PARTS = ("", "train", "heldout")
"""The targets of ``digits:``."""

_VALUES: Mapping[str, Sequence[str]] = MappingProxyType(
    {"orientation": ORIENTATIONS, "fingerprint": ("sample", "all")}
)
_PARQUET = (".parquet", ".pq")
_TABLES = (".csv", ".tsv", ".json", ".jsonl")


def parse_data_spec(text: str) -> Spec:
    """A data spec taken apart, its options and the place that it names checked.

    An existing folder or Parquet file needs no scheme.

    >>> parse_data_spec("digits:heldout").target
    'heldout'
    >>> parse_data_spec(".").text
    'folder:.'

    Raises:
        DataError: an unknown scheme or option, a value that an option does not take, or no such
            place.
    """
    spec = parse_spec(_with_scheme(text), SCHEMES, what="data", error=DataError)
    for option, value in spec.options.items():
        if value not in _VALUES.get(option, (value,)):
            raise DataError(unknown(option, value, _VALUES[option], where=repr(spec.text)))
    place = existing(spec.target)
    if spec.scheme == "folder" and (not spec.target or place is None or not place.is_dir()):
        raise DataError(
            f"folder: names a folder of images, {spec.target!r} is none: check the path"
        )
    if spec.scheme == "parquet" and (place is None or not place.is_file()):
        raise DataError(f"parquet: names a file, {spec.target!r} is none: check the path")
    if spec.scheme == "digits" and spec.target not in PARTS:
        raise DataError(unknown("part", spec.target, PARTS, where="digits:"))
    return spec


def _with_scheme(text: str) -> str:
    """The text with the scheme of what it names, where it has none."""
    scheme, colon, _ = text.partition(":")
    if colon and scheme in SCHEMES:
        return text
    path = existing(text.partition("?")[0])
    if path is None:
        return _scheme_needed(text)
    if path.is_dir():
        return f"folder:{text}"
    if path.suffix.lower() in _PARQUET:
        return f"parquet:{text}"
    if path.suffix.lower() in _TABLES:
        raise DataError(
            f"data are a folder of images or a Parquet file with them, {text!r} is a table: import "
            "predictions with `understudy import`"
        )
    raise DataError(
        f"data are a folder of images or a Parquet file with them, {text!r} is a file: name its "
        "folder, or write parquet:FILE"
    )


def _scheme_needed(text: str) -> str:
    """The text, where it has a scheme; whether that is known is seen when it is parsed."""
    if ":" in text or text.partition("?")[0] in SCHEMES:
        return text
    place = Path(text.partition("?")[0])
    near = [str(one) for one in place.parent.glob("*") if one.is_dir() or one.suffix in _PARQUET]
    if near:
        raise DataError(unknown("folder or file", str(place), near))
    raise DataError(
        f"data specs read SCHEME:NAME, found {text!r}, which is no folder or file: begin with one "
        f"of {', '.join(f'{name}:' for name in SCHEMES)}, or check the path"
    )
