"""What requests bring becomes images as the cascade takes them, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Condition
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import MissingExtra
from understudy.runtime.protocol import SampleKind
from understudy.serving.request_errors import RequestError
from understudy.serving.settings import ServingSettings
from understudy.zoo.decoding import decode_image

Array = npt.NDArray[Any]

THREADS = 4
"""Threads that decode, at most; what is above a core each takes turns with the models."""

LONGEST = 64
"""Times that an image may be as long as wide where models resize it."""

_MANY_SHAPES = 1000  # that are remembered
_SMALL = 2**16  # pixels; larger images, and strips, are resized in the threads
_STRIP = 16  # times as long as wide
_EXAMPLE_SIDE = 64  # pixels, where models resize any size


class PixelBudget:
    """Pixels that are decoded and resized at a time; an image waits in its thread for room.

    So that memory is bounded by one image of the largest size rather than by one in each thread.

    >>> budget = PixelBudget(100)
    >>> with budget.taken(60), budget.taken(40):
    ...     budget.free
    0

    Args:
        most: of all images at a time; a larger image is taken alone.
    """

    def __init__(self, most: int) -> None:
        self.free = self._most = most
        self._changed = Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Take so many pixels, as soon as there are as many."""
        count = min(pixels, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self.free >= count)
            self.free -= count
        try:
            yield
        finally:
            with self._changed:
                self.free += count
                self._changed.notify_all()


class ImageInputs:
    """Checks images, and decodes encoded ones, for a cascade.

    Args:
        cascade: of any backend; its `sample_kind` says what it takes, where it is known.
        settings: the limits.
    """

    def __init__(self, cascade: Any, settings: ServingSettings) -> None:
        self.kind: SampleKind | None = getattr(cascade, "sample_kind", None)
        self._settings = settings
        self._resized: Callable[[Any], Any] | None = getattr(cascade, "resized_request", None)
        self._threads = ThreadPoolExecutor(THREADS, "understudy decoding")
        self._budget = PixelBudget(settings.max_pixels)
        self._answered: set[Any] = set()
        self._seen: dict[Any, bool] = {}  # type and shape of images that are taken -> large or not

    def close(self) -> None:
        """End the threads; what waits for them is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def is_large(self, image: Any) -> bool:
        """Whether an image should be resized in the threads rather than by the stages.

        Raises:
            RequestError: it is none that the cascade takes: of another type, number of dimensions,
                channels or size.
        """
        key = image.dtype, image.shape
        large = self._seen.get(key)
        if large is None:
            self._check(image)
            large = self._resized is not None and len(image.shape) == 3 and _is_large(image.shape)
            if len(self._seen) < _MANY_SHAPES:
                self._seen[key] = large
        return large

    def _check(self, image: Any) -> None:
        kind = self.kind
        if kind is not None and not kind.fits(_dtype(image), image.shape):
            raise RequestError(
                f"images are {kind}, found {image.dtype} {tuple(image.shape)}: convert or resize "
                "them"
            )

    async def resize(self, image: Any) -> Any:
        """An image in the sizes that the models take.

        Raises:
            RequestError: a strip that is too long.
        """
        return await self._in_thread(self._resize, image)

    async def decode_all(self, files: Sequence[bytes]) -> list[Any]:
        """Encoded images as the cascade takes them, in order.

        Raises:
            RequestError: one that cannot be decoded, has too many pixels, or is not what the
                cascade takes; the message has its place where there are several.
        """
        found = [self._in_thread(self._decode, file) for file in files]
        try:
            return [await self._at(place, one, len(found)) for place, one in enumerate(found)]
        except BaseException:
            for one in found:
                one.cancel()
            raise

    async def _at(self, place: int, image: asyncio.Future[Any], count: int) -> Any:
        """An image; where it is one of several, the error has its place."""
        try:
            return await image
        except RequestError as error:
            if count == 1:
                raise
            raise error.at(place) from error

    def answered(self, image: Any) -> None:
        """Remember that an image of this shape was answered."""
        if self._only_models_know and len(self._answered) < _MANY_SHAPES:
            self._answered.add((tuple(image.shape), _dtype(image)))

    def is_strange(self, image: Any) -> bool:
        """Whether only a model can say that it takes the image, and none ever did."""
        return self._only_models_know and (tuple(image.shape), _dtype(image)) not in self._answered

    def example(self) -> Array | None:
        """Zeros as the cascade takes them; None where that is not known."""
        if self.kind is None or (None in self.kind.shape and not self.kind.resized):
            return None
        shape = [_EXAMPLE_SIDE if size is None else size for size in self.kind.shape]
        return np.zeros(shape, self.kind.dtype)

    @property
    def _only_models_know(self) -> bool:
        kind = self.kind
        return kind is None or (None in kind.shape and not kind.resized)

    def _in_thread(self, work: Callable[[Any], Any], value: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, value)

    def _decode(self, encoded: bytes) -> Any:
        if not encoded:
            raise RequestError("an image has some bytes, found none: send the file itself")
        with ExitStack() as held:

            def check_size(height: int, width: int) -> None:
                self._check_size(height, width)
                held.enter_context(self._budget.taken(height * width))

            return self._decoded(encoded, check_size)

    def _decoded(self, encoded: bytes, check_size: Callable[[int, int], None]) -> Any:
        try:
            pixels = decode_image(
                encoded, orientation=self._settings.orientation, check_size=check_size
            )
        except (RequestError, MissingExtra):
            raise
        except Exception as error:  # Pillow raises anything on damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RequestError(
                f"images can be decoded, found one that cannot ({reason:.200}): send "
                "a whole file, as it is"
            ) from error
        image = self._in_channels(pixels.transpose(2, 0, 1))
        self._check(image)
        return self._as_taken(np.ascontiguousarray(image))

    def _check_size(self, height: int, width: int) -> None:
        """Refuse an image before its pixels are decoded."""
        most = self._settings.max_pixels
        if height * width > most:
            raise RequestError(
                f"an image has at most {most:,} pixels here, found {height} x {width}: send a "
                "smaller one"
            )
        self._check_strip(height, width)
        if self.kind is not None:
            sides = [side for side in self.kind.shape[1:] if side is not None]
            if len(sides) == 2 and sorted(sides) != sorted((height, width)):
                raise RequestError(
                    f"images are {self.kind}, found {height} x {width} pixels: resize them"
                )

    def _in_channels(self, pixels: Array) -> Array:
        """Pixels (3, H, W) in the channels of the cascade: grey ones where it takes one."""
        if self.kind is None or self.kind.shape[0] != 1:
            return pixels
        if (pixels[0] != pixels[1]).any() or (pixels[0] != pixels[2]).any():
            raise RequestError(
                "images are grey here, found one with colours: convert it, as the images were "
                "that the cascade was scored on"
            )
        return pixels[:1]

    def _check_strip(self, height: int, width: int) -> None:
        """Refuse a strip: it would be made as high as the models' images before it is cropped."""
        if self._resized is not None and max(height, width) > LONGEST * min(height, width):
            raise RequestError(
                f"images that are resized are at most {LONGEST} times as long as wide, found "
                f"{height} x {width} pixels: crop it"
            )

    def _resize(self, image: Any) -> Any:
        height, width = map(int, image.shape[1:])
        self._check_strip(height, width)
        with self._budget.taken(height * width):
            return self._as_taken(image)

    def _as_taken(self, image: Array) -> Any:
        if self._resized is None:
            return image
        try:
            return self._resized(image)
        except ValueError as error:
            raise RequestError(f"images are no long strips, {error}: crop it") from error


def _dtype(image: Any) -> str:
    """The type of the values of an array or tensor."""
    return str(image.dtype).removeprefix("torch.")


def _is_large(shape: Sequence[int]) -> bool:
    height, width = map(int, shape[1:])
    return height * width > _SMALL or max(height, width) > _STRIP * min(height, width)
