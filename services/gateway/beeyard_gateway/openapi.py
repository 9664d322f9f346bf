"""`/openapi.json`, made from the table of routes: OpenAI's shapes from their schemas, the queen's from the protos.

So it cannot fall behind what the gateway does: what a route takes is described by what parses it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pydantic import BaseModel

from beeyard_gateway.message_json import fields_of, is_map, map_value, words_of
from beeyard_gateway.routing import RouteRow, Shape

_REF: Final = "#/components/schemas/"
_INT_TYPES: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_PROBLEM: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "RFC 9457, with the reason and whether asking again helps.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "reason": {"type": "string"},
        "retriable": {"type": "boolean"},
        "retry_after_ms": {"type": "integer"},
        "policy_label": {"type": "string"},
        "field": {"type": "string"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["type", "title", "status", "detail", "reason", "retriable"],
}
_OPENAI_ERROR: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "reason": {"type": "string"},
                "retriable": {"type": "boolean"},
                "retry_after_ms": {"type": "integer"},
                "policy_label": {"type": "string"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def document(rows: Iterable[RouteRow], version: str) -> dict[str, Any]:
    """Return the whole document."""
    schemas: dict[str, Any] = {"Problem": dict(_PROBLEM), "OpenAiError": dict(_OPENAI_ERROR)}
    paths: dict[str, Any] = {}
    for row in rows:
        path = row.path.replace(":path}", "}")
        paths.setdefault(path, {})[row.method.lower()] = _operation(row, path, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Beeyard",
            "version": version,
            "description": "LLM inference on your own machines. The live view is a WebSocket at /v2/live.",
        },
        "paths": paths,
        # Where tokens are checked; elsewhere they may be left out.
        "security": [{"token": []}, {}],
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(row: RouteRow, path: str, schemas: dict[str, Any]) -> dict[str, Any]:
    error, kind = (
        ("OpenAiError", "application/json")
        if path.startswith("/v1/")
        else (
            "Problem",
            "application/problem+json",
        )
    )
    content: dict[str, Any] = {row.content_type: {"schema": _ref(row.reply, schemas)}}
    if row.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    operation: dict[str, Any] = {
        "summary": row.summary,
        "tags": [_tag(path)],
        "operationId": _operation_id(row.method, path),
        "parameters": [*_in_path(path), *_named(row)],
        "responses": {
            str(row.status): {"description": "Done.", "content": content},
            "default": {
                "description": "Refused or failed.",
                "content": {kind: {"schema": {"$ref": _REF + error}}},
            },
        },
    }
    if row.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref(row.body, schemas)}},
        }
    return operation


def _tag(path: str) -> str:
    parts = path.split("/")
    return {"v1": "openai", "v2": parts[3] if "admin" in parts else "jobs"}.get(parts[1], "probes")


def _operation_id(method: str, path: str) -> str:
    return method.lower() + re.sub(r"\W+", "_", path).rstrip("_")


def _in_path(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _named(row: RouteRow) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "in": one.place, "description": one.text, "schema": {"type": one.kind}}
        for one in row.parameters
    ]


def _ref(shape: Shape | None, schemas: dict[str, Any]) -> dict[str, Any]:
    if shape is None:
        return {}
    if issubclass(shape, BaseModel):
        described = shape.model_json_schema(ref_template=_REF + "{model}")
        schemas.update(described.pop("$defs", {}))
        schemas[shape.__name__] = described
        return {"$ref": _REF + shape.__name__}
    return _message(cast("Descriptor", shape.DESCRIPTOR), schemas)


def _message(descriptor: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if descriptor.full_name == "google.protobuf.Timestamp":
        return {"type": "string", "format": "date-time"}
    if descriptor.name not in schemas:
        schemas[descriptor.name] = {}  # a message may lead back to itself
        schemas[descriptor.name] = {
            "type": "object",
            "properties": {field.name: _field(field, schemas) for field in fields_of(descriptor)},
            "additionalProperties": False,
        }
    return {"$ref": _REF + descriptor.name}


def _field(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if is_map(field):
        return {"type": "object", "additionalProperties": _one(map_value(field), schemas)}
    if field.is_repeated:
        return {"type": "array", "items": _one(field, schemas)}
    return _one(field, schemas)


def _one(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None:
        return _message(field.message_type, schemas)
    if field.enum_type is not None:
        return {"type": "string", "enum": words_of(field.enum_type)}
    if field.cpp_type in _INT_TYPES:
        return {"type": "integer"}
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return {"type": "boolean"}
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return {"type": "number"}
        case _ if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        case _:
            return {"type": "string"}
