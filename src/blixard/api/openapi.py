"""The OpenAPI 3.1 document, generated from the kinds' specs and the route table."""

from __future__ import annotations

from typing import Any

from blixard.api.standing import SubResource
from blixard.base.errors import CODES, Problem
from blixard.base.schema import json_schema
from blixard.cluster.kind import Kind, KindTable
from blixard.cluster.resources import Metadata

_LIST_PARAMETERS = (
    "labelSelector",
    "fieldSelector",
    "limit",
    "continue",
    "stale",
    "watch",
    "revision",
)
_WRITE_PARAMETERS = ("dryRun", "ifRevision")
_PROBLEM = {
    "description": "a problem document; the codes are in x-blixard-codes",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
}
Json = dict[str, Any]


def openapi(kinds: KindTable, sub_resources: tuple[SubResource, ...], version: str) -> Json:
    """Return the document."""
    with_spec = [kind for kind in kinds.kinds if kind.spec is not None]
    types: list[Any] = [kind.spec for kind in with_spec]
    schemas, components = json_schema([Metadata, Problem, *types])
    components["ErrorBody"] = _error_schema()
    for kind in kinds.kinds:
        spec: Json = {"type": "object"}
        if kind.spec is not None:
            spec = schemas[2 + with_spec.index(kind)]
        components[kind.name] = _object_schema(kind, spec)
    paths: Json = {}
    for kind in kinds.kinds:
        paths |= _kind_paths(kind)
    for sub in sub_resources:
        paths |= _sub_paths(kinds, sub)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Blixard", "version": version},
        "paths": dict(sorted((paths | _other_paths()).items())),
        "components": {"schemas": dict(sorted(components.items()))},
        "x-blixard-codes": {
            code: {"status": info.http_status, "cause": info.cause, "hint": info.hint}
            for code, info in sorted(CODES.items())
        },
    }


def _error_schema() -> Json:
    texts = ("type", "title", "detail", "hint", "requestId", "node")
    properties: Json = {name: {"type": "string"} for name in texts}
    properties["code"] = {"enum": sorted(CODES)}
    properties["status"] = {"type": "integer"}
    properties["details"] = {"type": "object"}
    problem = {"$ref": "#/components/schemas/Problem"}
    properties["problems"] = {"type": "array", "items": problem}
    return {"type": "object", "required": ["code", "status"], "properties": properties}


def _object_schema(kind: Kind, spec: Json) -> Json:
    return {
        "type": "object",
        "required": ["kind", "metadata"],
        "properties": {
            "apiVersion": {"const": "blixard.dev/v1"},
            "kind": {"const": kind.name},
            "metadata": {"$ref": "#/components/schemas/Metadata"},
            "spec": spec,
            "status": {"type": "object"},
        },
    }


def _head(kind: Kind) -> str:
    return (
        f"/v1/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"/v1/{kind.plural}"
    )


def _parameters(kind: Kind, *, name: bool, query: tuple[str, ...] = ()) -> list[Json]:
    names = (["namespace"] if kind.namespaced else []) + (["name"] if name else [])
    found: list[Json] = [
        {"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names
    ]
    found += [{"name": n, "in": "query", "schema": {"type": "string"}} for n in query]
    return found


def _operation(
    summary: str,
    operation_id: str,
    parameters: list[Json],
    answer: Json,
    *,
    body: Json | None = None,
) -> Json:
    content = {"application/json": {"schema": answer}}
    found: Json = {
        "summary": summary,
        "operationId": operation_id,
        "parameters": parameters,
        "responses": {"200": {"description": "done", "content": content}, "default": _PROBLEM},
    }
    if body is not None:
        found["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return found


def _kind_paths(kind: Kind) -> Json:
    ref = {"$ref": f"#/components/schemas/{kind.name}"}
    listing = {"type": "object", "properties": {"items": {"type": "array", "items": ref}}}
    many: Json = {
        "get": _operation(
            f"List or watch {kind.plural}",
            f"list{kind.name}",
            _parameters(kind, name=False, query=_LIST_PARAMETERS),
            listing,
        )
    }
    one: Json = {
        "get": _operation(
            f"Read one {kind.name}",
            f"get{kind.name}",
            _parameters(kind, name=True, query=("stale", "watch", "revision")),
            ref,
        )
    }
    if not kind.internal:
        written = _parameters(kind, name=True, query=_WRITE_PARAMETERS)
        many["post"] = _operation(
            f"Create a {kind.name}",
            f"create{kind.name}",
            _parameters(kind, name=False, query=("dryRun",)),
            ref,
            body=ref,
        )
        one["put"] = _operation(
            f"Create or replace a {kind.name}", f"put{kind.name}", written, ref, body=ref
        )
        one["delete"] = _operation(f"Delete a {kind.name}", f"delete{kind.name}", written, ref)
    return {_head(kind): many, f"{_head(kind)}/{{name}}": one}


def _sub_paths(kinds: KindTable, sub: SubResource) -> Json:
    kind = kinds.by_name[sub.kind]
    operation = _operation(
        f"{sub.name} of a {kind.name}",
        f"{sub.name}{kind.name}",
        _parameters(kind, name=True),
        {"type": "object"},
    )
    if sub.stream is not None:
        operation["x-blixard-stream"] = "frames in chunks, both ways"
    return {f"{_head(kind)}/{{name}}/{sub.name}": {sub.method.lower(): operation}}


def _other_paths() -> Json:
    free: Json = {"type": "object"}
    key = [{"name": "key", "in": "path", "required": True, "schema": {"type": "string"}}]
    return {
        "/v1/apply": {
            "post": _operation("Apply a list of documents", "apply", [], free, body=free)
        },
        "/v1/cluster": {"get": _operation("State of the cluster", "cluster", [], free)},
        "/v1/cluster/nodes": {
            "post": _operation("Make a join token", "addNode", [], free, body=free)
        },
        "/v1/join": {"post": _operation("Join with a token", "join", [], free, body=free)},
        "/v1/kv": {"get": _operation("List keys", "listKeys", [], free)},
        "/v1/kv/{key}": {
            "get": _operation("Read a value", "getKey", key, free),
            "put": _operation("Set a value", "putKey", key, free, body=free),
            "delete": _operation("Delete a key", "deleteKey", key, free),
        },
        "/v1/version": {"get": _operation("Versions", "version", [], free)},
    }
