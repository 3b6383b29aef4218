"""A cascade inside a FastAPI application: its routes below a path, and a route of your own.

    pip install 'understudy[zoo,serve]' fastapi
    CASCADE=cascade uvicorn serve_with_fastapi:api

GET /cascade/ is the page, POST /cascade/v2/models/cascade/infer the protocol. The route /sort
answers with the name of a shelf; its images are batched with those of all other requests.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, UploadFile

from understudy import load_cascade
from understudy.serving import ServingSettings, app
from understudy.serving.request_errors import RequestError

code = os.environ.get("ALLOW_CODE", "").split()  # modules of specs py:MODULE:factory, if any
cascade = load_cascade(os.environ["CASCADE"], allow_code=code)
served = app(cascade, settings=ServingSettings(name="cascade"))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Mounted applications are not started by the one around them: start the service here."""
    async with served.service:
        yield


api = FastAPI(lifespan=lifespan)


@api.post("/sort")
async def sort(image: UploadFile) -> dict[str, str]:
    """The shelf of a picture, which is its class."""
    try:
        [found] = await served.service.answer_files([await image.read()])
    except RequestError as error:  # no image (400), no room (503)
        raise HTTPException(error.status, str(error)) from error
    return {"shelf": found.class_name or str(found.answer.prediction), "by": found.answer.exit}


api.mount("/cascade", served)
