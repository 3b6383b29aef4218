"""The images that a table was scored on, found by the ids of its samples, as small pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError, TableError, listed
from understudy.extras import needing
from understudy.progress_bars import Advance, no_bar
from understudy.scores import ScoreTable
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.encoded import SAMPLE, ContentHash

Array = npt.NDArray[Any]

SIDE = 112
"""Pixels of the longer side of a picture as it is shown; no larger ones are kept."""

SHARP = SIDE // 2
"""Pixels of the longer side up to which an image is kept as it is, and each pixel enlarged."""

_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A small picture.

    Attributes:
        uri: the whole file as a data URI.
        width, height: pixels of the page that it takes.
        sharp: whether its pixels are shown as squares, because it is much smaller than that.
    """

    uri: str
    width: int
    height: int
    sharp: bool

    @staticmethod
    def of(pixels: Array) -> Picture:
        """The picture of an image, uint8 (C, H, W) with one channel or three.

        Images of up to `SHARP` pixels are kept to the bit (PNG), of larger ones at most `SIDE`
        (JPEG).

        >>> picture = Picture.of(np.zeros((3, 400, 300), np.uint8))
        >>> picture.uri[:23], picture.width, picture.height
        ('data:image/jpeg;base64,', 84, 112)
        """
        from PIL import Image

        channels = pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0)
        image = Image.fromarray(np.ascontiguousarray(channels.transpose(1, 2, 0)))
        sharp = max(image.size) <= SHARP
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
        kind, options = ("png", {}) if sharp else ("jpeg", {"quality": _QUALITY})
        buffer = io.BytesIO()
        image.save(buffer, kind, optimize=True, **options)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        width, height = (max(1, round(SIDE * side / max(image.size))) for side in image.size)
        return Picture(f"data:image/{kind};base64,{encoded}", width, height, sharp)


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """The images of the samples of a table.

    Attributes:
        data: the data set.
        positions: sample id -> the place of its image in the data set.
        verified: whether the table says which data were scored, and these are they; else they were
            found by their ids alone.
    """

    data: DataSet
    positions: Mapping[str, int]
    verified: bool

    @staticmethod
    def of(table: ScoreTable, data: DataSet | str) -> ScoredImages:
        """The images of a table's samples, or of some of its samples.

        Args:
            table: the samples.
            data: the data set, or its spec.

        Raises:
            TableError: the table was scored on other images.
            DataError: no such data, or no image of any sample among them.
            MissingExtra: Pillow is not installed.
        """
        with needing("pictures of a report", extra="torch"):
            import PIL  # noqa: F401
        images = open_data(data) if isinstance(data, str) else data
        verified = _are_scored(table.provenance, images)
        wanted = set(table.ids.tolist())
        positions = {id: n for n, id in enumerate(images.ids.tolist()) if id in wanted}
        if not positions:
            raise DataError(
                f"images are found by the ids of the table's samples, none of its {len(table):,} "
                f"({listed(map(repr, table.ids[:2].tolist()), 2)}) is among the {len(images):,} of "
                f"{images.spec!r} ({listed(map(repr, images.ids[:2].tolist()), 2)}): give the data "
                "that were scored, or name the column of ids with ?key=COLUMN"
            )
        return ScoredImages(images, positions, verified)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes, where they are numbered as those of the table."""
        return self.data.classes if self.verified else None

    def pictures(self, ids: Iterable[str], advance: Advance = no_bar) -> dict[str, Picture]:
        """The pictures of samples by id, without those that cannot be decoded.

        They are decoded in the order of the data, whichever was asked for.
        """
        places: Sequence[str] = sorted(ids, key=self.positions.__getitem__)
        found = {}
        for done, id in enumerate(places, 1):
            with suppress(DataError):
                found[id] = Picture.of(self.data.array(self.positions[id]))
            advance("drawing images", done, len(places))
        return found


def _are_scored(recorded: Mapping[str, Any], images: DataSet) -> bool:
    """Whether these are the images that a table was scored on; not known of one that was imported.

    Files are compared by hashes of a sample; where all were hashed, that would read all.

    Raises:
        TableError: they are others, have changed, or are decoded otherwise.
    """
    known = recorded.get("fingerprint")
    if known is None:
        return False
    if known != images.fingerprint:
        raise TableError(
            f"a table is shown with the images that it was scored on, those of "
            f"{recorded.get('data')!r} (fingerprint {known[:12]}), {images.spec!r} has others "
            f"({images.fingerprint[:12]}): give these data"
        )
    files, content = images.encoded, recorded.get("content")
    before = None if content is None else ContentHash.from_dict(content)
    if files is None or before is None:
        return True
    changed = files.changed_since(before) if before.images <= SAMPLE else []
    if changed:
        names = listed((repr(images.ids[place]) for place in changed), 3)
        raise TableError(
            f"a table is shown with the images that it was scored on, files of {images.spec!r} "
            f"have changed since ({names}): restore them"
        )
    decoding = recorded.get("decoding", files.decoding)
    if decoding != files.decoding:
        raise TableError(
            f"a table is shown with the pixels that it was scored on, decoded by {decoding}, here "
            f"by {files.decoding}: give the data with ?orientation={decoding.get('orientation')}"
        )
    return True
