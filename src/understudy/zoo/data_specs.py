"""Data specs: ``folder:DIR``, ``imagenet:DIR``, ``parquet:FILE``, ``wds:FILE``, ``hf:NAME``,
``digits:``, or the path alone; checked without reading an image, or importing what could."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from understudy.errors import DataError, unknown
from understudy.zoo.decoding import ORIENTATIONS
from understudy.zoo.imagenet_labels import REAL
from understudy.zoo.shards import shard_files
from understudy.zoo.spec import Spec, existing, parse_spec

_FILES = ("orientation", "fingerprint")
SCHEMES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "folder": ("classes", "limit", *_FILES),
        "imagenet": ("split", "labels", "limit", *_FILES),
        "parquet": ("image", "label", "key", "group", "classes", *_FILES),
        "wds": ("image", "label", "classes", *_FILES),
        "hf": ("split", "config", "revision", "image", "label", "key", "group", "classes", *_FILES),
        "digits": (),
    }
)
PARTS = ("", "train", "heldout")
"""The targets of ``digits:``."""

SPLITS = ("val", "train")
"""The splits of ``imagenet:``, the first by default."""

_VALUES: Mapping[str, Sequence[str]] = MappingProxyType(
    {"orientation": ORIENTATIONS, "fingerprint": ("sample", "all")}
)
_SHARDS: Mapping[str, Sequence[str]] = MappingProxyType(
    {"parquet": (".parquet", ".pq"), "wds": (".tar",)}
)
"""The schemes of files, of which there may be several, and how they end."""
_ENDS = tuple(end for ends in _SHARDS.values() for end in ends)
_SAVED = ("state.json", "dataset_dict.json")  # what `datasets` saves
_TABLES = (".csv", ".tsv", ".json", ".jsonl")


def parse_data_spec(text: str) -> Spec:
    """A data spec taken apart, its options and the place that it names checked.

    An existing folder, Parquet or tar file needs no scheme.

    >>> parse_data_spec("digits:heldout").target
    'heldout'
    >>> parse_data_spec(".").text
    'folder:.'

    Raises:
        DataError: an unknown scheme or option, a value that an option does not take, or no such
            place.
    """
    spec = parse_spec(_with_scheme(text), SCHEMES, what="data", error=DataError)
    values = {**_VALUES, **({"split": SPLITS} if spec.scheme == "imagenet" else {})}
    for option, value in spec.options.items():
        if value not in values.get(option, (value,)):
            raise DataError(unknown(option, value, values[option], where=repr(spec.text)))
    for option in ("classes", "labels"):
        file = spec.options.get(option, "")
        found = existing(file)
        if file and file != REAL and (found is None or not found.is_file()):
            raise DataError(f"{option}= names a file, {file!r} is none: check the path")
    limit = spec.options.get("limit", "1")
    if re.fullmatch(r"[1-9]\d{0,8}", limit) is None:
        raise DataError(
            f"limit is the largest number of images, found {limit[:80]!r}: write ?limit=5000"
        )
    place = existing(spec.target)
    if spec.scheme in ("folder", "imagenet") and (place is None or not place.is_dir()):
        raise DataError(
            f"{spec.scheme}: names a folder of images, {spec.target!r} is none: check the path"
        )
    if spec.scheme in _SHARDS:
        shard_files(spec.target, _SHARDS[spec.scheme], scheme=spec.scheme)
    if spec.scheme == "hf" and not spec.target:
        raise DataError(
            f"hf: names a data set or a folder, found {spec.text!r}: write hf:OWNER/NAME"
        )
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
    found = _scheme_of(path)
    if found is not None:
        return f"{found}:{text}"
    if path.suffix.lower() in _TABLES:
        raise DataError(
            f"data are a folder of images or files with them, {text!r} is a table: import "
            "predictions with `understudy import`"
        )
    raise DataError(
        f"data are a folder of images or a file with them (Parquet, tar), {text!r} is a file: "
        "name its folder, or write parquet:FILE"
    )


def _scheme_of(path: Path) -> str | None:
    """The scheme of a path that is there; None where it has none."""
    if not path.is_dir():
        kinds = (name for name, ends in _SHARDS.items() if path.suffix.lower() in ends)
        return next(kinds, None)
    if any((path / name).is_file() for name in _SAVED):
        return "hf"
    inside = [one for one in path.iterdir() if one.name[0] != "."]
    if not any(one.is_dir() for one in inside):
        for scheme, ends in _SHARDS.items():
            if any(one.suffix.lower() in ends for one in inside):
                return scheme
    return "folder"


def _scheme_needed(text: str) -> str:
    """The text, where it has a scheme; whether that is known is seen when it is parsed."""
    if ":" in text or text.partition("?")[0] in SCHEMES:
        return text
    place = Path(text.partition("?")[0])
    near = [str(one) for one in place.parent.glob("*") if one.is_dir() or one.suffix in _ENDS]
    if near:
        raise DataError(unknown("folder or file", str(place), near))
    raise DataError(
        f"data specs read SCHEME:NAME, found {text!r}, which is no folder or file: begin with one "
        f"of {', '.join(f'{name}:' for name in SCHEMES)}, or check the path"
    )
