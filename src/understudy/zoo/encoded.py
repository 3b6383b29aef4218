"""Images in files: how they are decoded, and hashes of what they hold, so that a change is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError, MissingExtra, listed
from understudy.json_codec import Stored
from understudy.zoo.decoding import VERSION, decode_image, decodes_otherwise

Array = npt.NDArray[Any]

SAMPLE = 256
"""Images whose files are hashed, unless all are."""

BLOCKS = 8
"""Blocks of a large file that the sample is taken from."""

_MARK = 8  # hexadecimal digits


@dataclass(frozen=True)
class ContentHash(Stored, what="a hash of images", error=DataError):
    """What some images of a data set held when they were hashed.

    Attributes:
        images: how many images were hashed, at even distances, or all.
        digest: SHA-256 over the hashes of their files.
        marks: 8 digits per image, one after another; where there are more than 256 images, per
            image and every 256th after it.
    """

    images: int
    digest: str
    marks: str

    def differing(self, now: ContentHash) -> list[int]:
        """The numbers of the marks that differ; of one as many images."""
        starts = range(0, len(self.marks), _MARK)
        pairs = [(self.marks[at : at + _MARK], now.marks[at : at + _MARK]) for at in starts]
        return [number for number, (before, after) in enumerate(pairs) if before != after]


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """The files of the images of a data set.

    Attributes:
        read: the file of the image at a position; may raise any exception.
        count: how many there are.
        orientation: what is done about EXIF orientation, as for `decode_image`.
        hash_all: whether all files are hashed, or a sample of them.
        block: how many are read together.
    """

    read: Callable[[int], bytes]
    count: int
    orientation: str
    hash_all: bool
    block: int = 1

    @property
    def decoding(self) -> dict[str, Any]:
        """Plain JSON: the rules by which files become pixels."""
        return {"version": VERSION, "orientation": self.orientation}

    def decode(self, position: int) -> Array:
        """The pixels of an image, uint8 (H, W, 3).

        Raises:
            Exception: whatever reading or decoding raises.
        """
        return decode_image(self.read(position), orientation=self.orientation)

    def hash(self, images: int | None = None) -> ContentHash:
        """The hash of as many images: of a sample, or of all with `hash_all`, unless given."""
        if images is None:
            images = self.count if self.hash_all else min(SAMPLE, self.count)
        digest = sha256()
        marks = [sha256() for _ in range(min(images, SAMPLE))]
        for number, position in enumerate(self._positions(images)):
            hashed = sha256(self._content(position)).digest()
            digest.update(hashed)
            marks[number % SAMPLE].update(hashed)
        found = "".join(mark.hexdigest()[:_MARK] for mark in marks)
        return ContentHash(images, digest.hexdigest(), found)

    def changed_since(self, before: ContentHash) -> list[int]:
        """Positions of images that have changed since; where all were hashed, some around them."""
        now = self.hash(before.images)
        if now.digest == before.digest:
            return []
        numbers = set(before.differing(now))
        positions = self._positions(before.images)
        return [place for n, place in enumerate(positions) if n % SAMPLE in numbers]

    def decoded_otherwise(self) -> Iterator[int]:
        """Positions of the images that had other pixels before the rules had a version."""
        for position in range(self.count):
            content = self._content(position)
            if decodes_otherwise(content, orientation=self.orientation):
                yield position

    def _positions(self, images: int) -> list[int]:
        """Even distances; in a large file within a few blocks, which are at even distances."""
        if images >= self.count or self.count <= BLOCKS * self.block:
            every = np.linspace(0, self.count - 1, images).round().astype(int)
            return [int(position) for position in every]
        blocks = np.linspace(0, self.count // self.block - 1, BLOCKS).round().astype(int)
        within = np.linspace(0, self.block - 1, -(-images // BLOCKS)).round().astype(int)
        places = (blocks[:, None] * self.block + within).ravel()[:images]
        return [int(position) for position in places]

    def _content(self, position: int) -> bytes:
        """The file of an image; empty where it cannot be read."""
        try:
            return self.read(position)
        except MissingExtra:
            raise
        except Exception:  # noqa: BLE001
            return b""


def check_unchanged(
    files: EncodedImages,
    ids: Array,
    recorded: Mapping[str, Any],
    *,
    where: str,
    error: type[Exception] = DataError,
) -> None:
    """Refuse images that have changed, or are decoded otherwise, since they were scored.

    Args:
        files: the images.
        ids: (N,) their ids.
        recorded: `content` and `decoding` as they were then; neither in what is older.
        where: what was scored, for the message.
        error: the class of the error.

    Raises:
        Exception: of the class given; the message names the images.
    """
    content = recorded.get("content")
    before = None if content is None else ContentHash.from_dict(content)
    changed = [] if before is None else files.changed_since(before)
    if before is not None and changed:
        rest = "" if before.images <= SAMPLE else "some of "
        raise error(
            f"exits are scored on the same images, files have changed since {where} was scored "
            f"({rest}{_named(ids, changed)}): restore them, or choose another folder"
        )
    decoding = recorded.get("decoding")
    if decoding is None:
        otherwise = list(files.decoded_otherwise())
        if otherwise:
            raise error(
                f"exits are scored on the same pixels, {len(otherwise)} images are decoded "
                f"otherwise than when {where} was scored ({_named(ids, otherwise)}: they are "
                "turned as their EXIF orientation says, or have more than 8 bits): add "
                "?orientation=ignore to the data where they are turned, or choose another folder"
            )
    elif decoding != files.decoding:
        raise error(
            f"exits are scored on the same pixels, images were decoded by {decoding} when {where} "
            f"was scored, here by {files.decoding}: give the data with "
            f"?orientation={decoding.get('orientation')}, or choose another folder"
        )


def _named(ids: Array, positions: list[int]) -> str:
    return listed((repr(ids[position]) for position in positions), 3)
