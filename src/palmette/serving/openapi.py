"""The API's own description, with the limits of this server and the tasks of the model it serves now."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from palmette.serving import bodies
from palmette.serving.service import Service

_OPEN = ("/healthz", "/readyz")
_REFS = "#/components/schemas/{model}"


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses of an operation that have the form of an error."""
    return {status: {"model": bodies.ErrorResponse, "description": HTTPStatus(status).phrase} for status in statuses}


def describe(app: FastAPI, service: Service) -> dict[str, Any]:
    """The OpenAPI document."""
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    components = document.setdefault("components", {})
    forms: dict[str, type[bodies.Body]] = {"/v1/predict": bodies.PredictRequest, "/v1/stream": bodies.StreamRequest}
    schemas: list[type[BaseModel]] = [*forms.values(), bodies.Growing]
    _, request = models_json_schema([(schema, "validation") for schema in schemas], ref_template=_REFS)
    components["schemas"] |= _limit(request["$defs"], service)
    if service.releases is not None:
        _describe_role_changes(document)
    for path, form in forms.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        content["schema"] = {"$ref": _REFS.format(model=form.__name__)}
        content["examples"] = _examples(service)
    answers = document["paths"]["/v1/stream"]["post"]["responses"]["200"]["content"]["application/x-ndjson"]
    answers["schema"] = {
        "type": "string",
        "description": "Lines, each an Answer; with `tokens` Growing ones between them; the last may be an error.",
    }
    if service.keys.hashes:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path in _OPEN else [{"key": []}]
    return document


def _describe_role_changes(document: dict[str, Any]) -> None:
    """The bodies that are read by hand."""
    _, change = models_json_schema([(bodies.RoleChange, "validation")], ref_template=_REFS)
    document["components"]["schemas"] |= change["$defs"]
    for path in ("/v1/admin/promote", "/v1/admin/rollback"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        content["schema"] = {"$ref": "#/components/schemas/RoleChange"}


def _limit(schemas: dict[str, Any], service: Service) -> dict[str, Any]:
    """Limits into the schemas of a request."""
    settings = service.settings
    tasks = service.model.kinds | (service.writer.kinds if service.writer is not None else {})

    def walk(schema: Any) -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "string":
                schema["maxLength"] = settings.characters
            for part in schema.values():
                walk(part)
        elif isinstance(schema, list):
            for part in schema:
                walk(part)

    walk(schemas)
    for form in (bodies.PredictRequest, bodies.StreamRequest):
        fields = schemas[form.__name__]["properties"]
        fields["texts"]["maxItems"] = settings.texts
        for choice in fields["tasks"]["anyOf"]:
            if choice["type"] == "array":
                choice["items"] = {"type": "string", "enum": list(tasks)}
    return schemas


def _examples(service: Service) -> dict[str, Any]:
    """Bodies that this model answers."""
    model = service.model
    single = [task for task in model.kinds if model.takes(task, pair=False)]
    paired = [task for task in model.kinds if model.takes(task, pair=True)]
    found: dict[str, Any] = {}
    if single:
        found["texts"] = {"summary": "Every task that takes a text", "value": {"texts": ["Anna sat in Paris."]}}
        value = {"texts": ["Anna sat in Paris.", ["Anna", "sat", "."]], "tasks": single[:1]}
        found["one task"] = {"summary": "One task, over a text and over words", "value": value}
    if paired:
        pair = {"text": "Where is Anna?", "text_pair": "Anna is in Paris."}
        found["pair"] = {"summary": "A pair, or a question and its passage", "value": {"texts": [pair]}}
    return found
