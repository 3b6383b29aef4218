"""Why a request is not answered, with the HTTP status that says so."""

from __future__ import annotations

from typing import Self

from understudy.errors import UnderstudyError


class RequestError(UnderstudyError):
    """A request that is refused, with its HTTP status and headers.

    >>> RequestError("images are uint8, found float32").status
    400
    """

    status: int = 400
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(
        self, message: str, *, headers: tuple[tuple[bytes, bytes], ...] | None = None
    ) -> None:
        super().__init__(message)
        if headers is not None:
            self.headers = headers

    def at(self, place: int) -> Self:
        """The same error, of one of several images.

        >>> str(RequestError("it is damaged").at(3))
        'image 3: it is damaged'
        """
        return type(self)(f"image {place}: {self}")


class QueueFull(RequestError):
    """As many images are in flight as may be; the client may try again."""

    status = 503
    headers = ((b"retry-after", b"1"),)


class DeadlineExceeded(RequestError):
    """The request was given up after its deadline."""

    status = 503
    headers = ((b"retry-after", b"1"),)


class StageError(RequestError):
    """A model could not answer an image that it should be able to."""

    status = 500


class NoToken(RequestError):
    """The request lacks the token."""

    status = 401
    headers = ((b"www-authenticate", b"Bearer"),)


class NotAllowed(RequestError):
    """The request may come from a web page of somebody else."""

    status = 403


class NotFound(RequestError):
    """There is no such thing."""

    status = 404


class WrongMethod(RequestError):
    """The path is there for other methods."""

    status = 405


class UnsupportedMediaType(RequestError):
    """The body is of another type than the route reads."""

    status = 415


class NotSupported(RequestError):
    """This server, or this cascade, does not have it."""

    status = 501
