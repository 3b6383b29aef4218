"""POST /classify: image files in, the likeliest classes out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import numpy as np
from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from understudy.confidence_functions import softmax
from understudy.serving.request_errors import RequestError, UnsupportedMediaType
from understudy.serving.served_answers import Served, name_of
from understudy.serving.served_policies import ServedPolicies

TOP = 5
"""Classes in an answer."""

_FIELDS = 16  # beside the files of a form
_NAMED = ("", "application/octet-stream")


async def files_in(body: bytes, headers: Headers, *, most: int) -> list[bytes]:
    """The image files in the body of a request: itself, or the files of a form.

    Args:
        body: the body.
        headers: of the request.
        most: files in a form, at most.

    Raises:
        UnsupportedMediaType: neither image nor form.
        RequestError: a form that is damaged, or has no file.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind in _NAMED:
        return [body]
    if kind != "multipart/form-data":
        raise UnsupportedMediaType(
            "images are the body (Content-Type: image/jpeg, ...) or files of multipart/form-data, "
            f"found {kind!r:.80}: send a file"
        )

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(headers, stream(), max_files=most, max_fields=_FIELDS)
        form = await parser.parse()
    except (MultiPartException, FormParserError, KeyError) as error:
        reason = "no boundary" if isinstance(error, KeyError) else str(error)
        raise RequestError(f"the body is multipart/form-data, found {reason:.200}") from error
    try:
        uploads = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
        if not uploads:
            raise RequestError("a form has at least one file, found none: curl -F image=@a.jpg")
        return [await one.read() for one in uploads]
    finally:
        await form.close()


def described(found: Sequence[Served], policies: ServedPolicies) -> list[dict[str, Any]]:
    """Answers with their logits as plain JSON, each with its likeliest classes.

    Probabilities are the softmax of the logits of the exit that answered.
    """
    point = policies.named(found[0].operating_point)
    return [_described(served, None if point is None else point.unit) for served in found]


def _described(served: Served, unit: str | None) -> dict[str, Any]:
    answer = served.answer
    logits = np.asarray(answer.logits, np.float64)
    shares = softmax(logits[None])[0]
    return {
        "request_id": served.request_id,
        "prediction": answer.prediction,
        "class": served.class_name,
        "top": [
            {
                "prediction": number,
                "class": name_of(served.classes, number),
                "probability": float(shares[number]),
            }
            for number in np.argsort(-logits, kind="stable")[:TOP].tolist()
        ],
        "confidence": answer.confidence,
        "exit": answer.exit,
        "cost": served.cost,
        "unit": None if served.cost is None else unit,
        "operating_point": served.operating_point,
    }
