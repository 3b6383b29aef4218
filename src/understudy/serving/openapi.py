"""The OpenAPI document (3.1) of a server, kept by hand beside its routes.

The paths of `/v2` and their objects are those of the Open Inference Protocol's own document
(`open_inference_rest.yaml`), with the binary, classification and statistics extensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy import __version__
from understudy.serving.open_inference import HEADER_LENGTH, OUTPUTS
from understudy.serving.tensors import BYTES, DATATYPES, MOST_DIMENSIONS

Json = dict[str, Any]

OPENAPI = "/openapi.json"
"""The path of the document."""

TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}
COUNT: Json = {"type": "integer", "minimum": 0}
ANYTHING: Json = {"type": "object"}

ERRORS = {
    400: "The request is malformed, or an image cannot be decoded.",
    401: "The request lacks the token of the server.",
    403: "The request may come from a web page of somebody else.",
    404: "No such path, model or version.",
    405: "The path has other methods.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body has a type or an encoding that is not read here.",
    500: "A model failed on an image that it should be able to answer.",
    501: "The extension is not supported.",
    503: "The queue is full, the deadline has passed, or the server stops: try again later.",
}


def document(*, name: str = "cascade", version: str = "1", below: str = "") -> Json:
    """The document of a server.

    Args:
        name: of its model.
        version: of its model.
        below: the path that the app is mounted at.

    >>> document()["openapi"], "/v2/models/{model}/infer" in document()["paths"]
    ('3.1.0', True)
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "understudy",
            "version": __version__,
            "description": "A certified model cascade behind the Open Inference Protocol v2.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": below or "/"}],
        "paths": {**_protocol_paths(), **_own_paths()},
        "components": {
            "schemas": {**_protocol_schemas(), **_own_schemas()},
            "parameters": _parameters(name, version),
            "responses": {str(status): _error(text) for status, text in ERRORS.items()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _ref(name: str, kind: str = "schemas") -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(required: Mapping[str, Json], **optional: Json) -> Json:
    """An object with some fields that are there, and some that may be."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": [*required],
    }


def _list(of: Json, **more: Any) -> Json:
    return {"type": "array", "items": of, **more}


def _or_none(kind: Json) -> Json:
    return {"anyOf": [kind, {"type": "null"}]}


def _json(schema: Json) -> Json:
    return {"content": {"application/json": {"schema": schema}}}


def _error(text: str) -> Json:
    return {"description": text, **_json(_ref("error"))}


def _operation(
    identity: str,
    summary: str,
    reply: Json,
    *errors: int,
    body: Json | None = None,
    guarded: bool = False,
    parameters: tuple[str, ...] = (),
) -> Json:
    """An operation: its reply, and the errors that it has beside those of every path."""
    statuses = sorted({404, 405, *errors, *([401, 403] if guarded else [])})
    operation: Json = {
        "operationId": identity,
        "summary": summary,
        "responses": {
            "200": {"description": "OK", **reply},
            **{str(status): _ref(str(status), "responses") for status in statuses},
        },
    }
    if parameters:
        operation["parameters"] = [_ref(one, "parameters") for one in parameters]
    if body is not None:
        operation["requestBody"] = {"required": True, **body}
    if guarded:
        operation["security"] = [{"token": []}, {}]
    return operation


def _protocol_paths() -> Json:
    paths: Json = {
        path: {"get": _operation(identity, "Server metadata", _json(_ref("server_metadata")))}
        for path, identity in (("/v2", "server_metadata"), ("/v2/", "server_metadata_slash"))
    }
    live, ready = _json(_ref("server_live")), _json(_ref("server_ready"))
    stats = _json(_ref("statistics"))
    paths |= {
        "/v2/health/live": {"get": _operation("server_live", "Server live", live)},
        "/v2/health/ready": {"get": _operation("server_ready", "Server ready", ready, 503)},
        "/v2/models/stats": {"get": _operation("all_statistics", "Statistics", stats)},
    }
    for path, end, named in (
        ("/v2/models/{model}", "", ("model",)),
        ("/v2/models/{model}/versions/{version}", "_version", ("model", "version")),
    ):
        metadata, model_ready = _json(_ref("model_metadata")), _json(_ref("model_ready"))
        infer = _operation(
            f"infer{end}",
            "Inference",
            {"content": _inference("infer_response")},
            *(400, 408, 413, 415, 500, 501, 503),
            body={"content": _inference("infer_request")},
            parameters=(*named, "header_length"),
        )
        gets = (
            ("", "model_metadata", "Model metadata", metadata, ()),
            ("/ready", "model_ready", "Model ready", model_ready, (503,)),
            ("/stats", "statistics", "Statistics of the model", stats, ()),
        )
        for below, identity, summary, reply, errors in gets:
            operation = _operation(f"{identity}{end}", summary, reply, *errors, parameters=named)
            paths[f"{path}{below}"] = {"get": operation}
        paths[f"{path}/infer"] = {"post": infer}
    return paths


def _inference(schema: str) -> Json:
    """JSON, or JSON with binary tensors behind it, or a raw body."""
    return {"application/json": {"schema": _ref(schema)}, "application/octet-stream": {}}


def _parameters(name: str, version: str) -> Json:
    def in_path(one: str, value: str) -> Json:
        schema = {**TEXT, "enum": [value]}
        return {"name": one, "in": "path", "required": True, "schema": schema}

    return {
        "model": in_path("model", name),
        "version": in_path("version", version),
        "request_id": {"name": "request_id", "in": "path", "required": True, "schema": TEXT},
        "header_length": {
            "name": HEADER_LENGTH,
            "in": "header",
            "description": "Bytes of JSON in front of binary tensors; 0 for a raw body.",
            "schema": COUNT,
        },
    }


def _protocol_schemas() -> Json:
    shape = _list({"type": "integer"}, maxItems=MOST_DIMENSIONS)
    size = {**shape, "items": COUNT}
    datatype = {**TEXT, "enum": [*DATATYPES, BYTES]}
    values = {"$ref": "#/components/schemas/tensor_data"}
    tensor = {"name": TEXT, "shape": shape, "datatype": datatype}
    shown = _or_none({"anyOf": [values, NUMBER, TEXT, {"type": "boolean"}]})
    output = _object({"name": {**TEXT, "enum": [*OUTPUTS]}}, parameters=_ref("output_parameters"))
    binary = {"binary_data_size": COUNT}
    return {
        "error": {**_object({"error": TEXT}), "additionalProperties": False},
        "server_live": _object({"live": {"type": "boolean"}}),
        "server_ready": _object({"live": {"type": "boolean"}, "ready": {"type": "boolean"}}),
        "model_ready": _object({"name": TEXT, "ready": {"type": "boolean"}}),
        "server_metadata": _object({"name": TEXT, "version": TEXT, "extensions": _list(TEXT)}),
        "model_metadata": _object(
            {
                "name": TEXT,
                "platform": TEXT,
                "inputs": _list(_object(tensor)),
                "outputs": _list(_object(tensor)),
            },
            versions=_list(TEXT),
        ),
        "parameters": ANYTHING,
        "tensor_data": _list(shown),
        "input_parameters": {**ANYTHING, "properties": {**binary, "content_type": TEXT}},
        "output_parameters": {
            **ANYTHING,
            "properties": {"binary_data": {"type": "boolean"}, "classification": COUNT},
        },
        "infer_input": _object(
            {"name": {**TEXT, "enum": ["image"]}, "shape": size, "datatype": datatype},
            parameters=_ref("input_parameters"),
            data=values,
        ),
        "infer_request": {
            **_object(
                {"inputs": _list(_ref("infer_input"), minItems=1, maxItems=1)},
                id=TEXT,
                parameters={
                    **ANYTHING,
                    "properties": {"binary_data_output": {"type": "boolean"}},
                },
                outputs=_list(output),
            ),
            "examples": [_example()],
        },
        "infer_response": _object(
            {
                "model_name": TEXT,
                "model_version": TEXT,
                "outputs": _list(_object(tensor, parameters=_object({}, **binary), data=values)),
            },
            id=TEXT,
            parameters=_object({"request_id": TEXT}, operating_point=TEXT),
        ),
        "statistics": _object({"model_stats": _list(_ref("model_statistics"))}),
        "model_statistics": _statistics(),
    }


def _example() -> Json:
    pixels: Json = {"name": "image", "shape": [1, 3, 1, 1], "datatype": "UINT8", "data": [0, 0, 0]}
    return {"id": "42", "inputs": [pixels], "outputs": [{"name": "prediction"}]}


def _statistics() -> Json:
    duration = _object({"count": COUNT, "ns": COUNT})
    kinds = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    counts = {"inference_count": COUNT, "execution_count": COUNT}
    stage = {"name": TEXT, "answered": COUNT, **counts, "compute_infer": duration}
    return _object(
        {
            "name": TEXT,
            "version": TEXT,
            "last_inference": COUNT,
            **counts,
            "inference_stats": _object(dict.fromkeys([*kinds, "cache_hit"], duration)),
            "batch_stats": _list(ANYTHING),
            "stages": _list(_object(stage)),
        }
    )


def _own_paths() -> Json:
    image = {"schema": {**TEXT, "format": "binary"}}
    points, wish = _json(_ref("operating_points")), _json(_ref("operating_point_wish"))
    feedback = _json(_list(_ref("feedback")))
    files = {"schema": _object({"image": _list({**TEXT, "format": "binary"})})}
    bodies = (400, 408, 413, 415)
    return {
        "/": {"get": _operation("page", "The page", {"content": {"text/html": {}}})},
        "/status": {"get": _operation("status", "What the server does", _json(ANYTHING))},
        "/metrics": {
            "get": _operation("metrics", "Metrics of Prometheus", {"content": {"text/plain": {}}})
        },
        "/latest/{request_id}.png": {
            "get": _operation(
                "latest_image",
                "One of the latest images",
                {"content": {"image/png": image}},
                guarded=True,
                parameters=("request_id",),
            )
        },
        "/classify": {
            "post": _operation(
                "classify",
                "Classes of image files",
                _json(_ref("classified")),
                *(*bodies, 500, 503),
                body={
                    "content": {
                        "image/*": {},
                        "application/octet-stream": {},
                        "multipart/form-data": files,
                    }
                },
            )
        },
        "/operating-point": {
            "get": _operation("operating_point", "The operating points", points),
            "put": _operation(
                "set_operating_point", "Set the operating point", points, *bodies, body=wish,
                guarded=True,
            ),
        },
        "/feedback": {
            "post": _operation(
                "feedback", "Labels that came later", _json(ANYTHING), *bodies, 501, body=feedback,
                guarded=True,
            )
        },
        "/watch/reset": {
            "post": _operation(
                "reset_watch", "Reset the watch", _json(ANYTHING), *bodies, 501, guarded=True
            )
        },
        OPENAPI: {"get": _operation("openapi", "This document", _json(ANYTHING))},
    }  # fmt: skip


def _own_schemas() -> Json:
    choices = ({"name": TEXT}, {"max_drop": NUMBER}, {"cost": NUMBER})
    top = {"prediction": COUNT, "class": _or_none(TEXT), "probability": NUMBER}
    answer = {
        "request_id": TEXT,
        "prediction": COUNT,
        "class": _or_none(TEXT),
        "top": _list(_object(top)),
        "confidence": NUMBER,
        "exit": TEXT,
        "cost": _or_none(NUMBER),
        "unit": _or_none(TEXT),
        "operating_point": _or_none(TEXT),
    }
    first = {"request_id": TEXT, "operating_point": _or_none(TEXT)}
    return {
        "classified": _object({**first, "answers": _list(_object(answer))}),
        "operating_points": _object(
            {
                "operating_point": _or_none(TEXT),
                "chosen_by": TEXT,
                "operating_points": _list(ANYTHING),
            }
        ),
        "operating_point_wish": {
            "oneOf": [{**_object(one), "additionalProperties": False} for one in choices]
        },
        "feedback": _object({"request_id": TEXT, "label": {"anyOf": [COUNT, TEXT]}}),
    }
