"""The cascade behind MLServer: `Cascade.answer` on the batches that it forms; base64 in v2 JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import rival_cascade
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Served(MLModel):
    async def load(self) -> bool:
        self.cascade = rival_cascade.cascade(rival_cascade.settings())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        encoded: Any = getattr(payload.inputs[0].data, "root", payload.inputs[0].data)
        rows = rival_cascade.answers(self.cascade, [rival_cascade.pixels(one) for one in encoded])
        outputs = [
            NumpyCodec.encode_output("prediction", np.array([[r["prediction"]] for r in rows])),
            NumpyCodec.encode_output("confidence", np.array([[r["confidence"]] for r in rows])),
            StringCodec.encode_output("exit", [r["exit"] for r in rows], use_bytes=False),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
