"""POST /classify: image files in, the likeliest classes out."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from understudy.confidence_functions import softmax
from understudy.serving.exchange import REQUEST_ID, json_response
from understudy.serving.request_errors import RequestError, UnsupportedMediaType
from understudy.serving.service import Served, Service, name_of

TOP = 5
"""Classes in an answer."""


async def classify(request: Request, service: Service) -> Response:
    """Answer the images of a request: one is its body, or several are its files.

    Raises:
        RequestError: the request has no image, or one that is none.
    """
    files = await _files_in(request, most=service.settings.max_queue)
    found = await service.answer_files(files, logits=True, request_id=request.scope[REQUEST_ID])
    answers = [_described(served, service) for served in found]
    policy = {"request_id": request.scope[REQUEST_ID], "operating_point": found[0].operating_point}
    return json_response({**policy, "answers": answers})


async def _files_in(request: Request, *, most: int) -> list[bytes]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        return [await request.body()]
    if kind != "multipart/form-data":
        raise UnsupportedMediaType(
            "images are the body (Content-Type: image/jpeg, ...) or files of multipart/form-data, "
            f"found {kind!r:.80}: send a file"
        )
    form = await request.form(max_files=most, max_fields=16)
    try:
        uploads = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
        if not uploads:
            raise RequestError("a form has at least one file, found none: curl -F image=@a.jpg")
        return [await one.read() for one in uploads]
    finally:
        await form.close()


def _described(served: Served, service: Service) -> dict[str, Any]:
    answer = served.answer
    logits = np.asarray(answer.logits, np.float64)
    shares = softmax(logits[None])[0]
    order = np.argsort(-logits, kind="stable")[:TOP].tolist()
    point = service.policies.named(served.operating_point)
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
            for number in order
        ],
        "confidence": answer.confidence,
        "exit": answer.exit,
        "cost": served.cost,
        "unit": None if point is None or served.cost is None else point.unit,
        "operating_point": served.operating_point,
    }
