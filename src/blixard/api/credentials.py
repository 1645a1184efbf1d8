"""API keys and join tokens: made here, their secret shown once, only public halves kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from blixard.api.callers import require
from blixard.api.documents import Place, check_spec, invalid, parse_mapping
from blixard.api.messages import Response
from blixard.api.standing import Call
from blixard.api.writing import Writer
from blixard.base.errors import BlixardError, Problem
from blixard.base.schema import collect_problems
from blixard.cluster.kind import Kind
from blixard.cluster.resources import Put
from blixard.ports.environment import Environment
from blixard.security.keys import ENTROPY_BYTES, mint_key

TTL_DEFAULT_S = 24 * 3600.0
TTL_MAX_S = 30 * 86400.0


class JoinTokenWish(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """What the maker of a token says about the node that may use it."""

    ttl_s: float = TTL_DEFAULT_S
    node_name: str = ""
    address: str = ""
    roles: tuple[str, ...] = ()


class MintedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new token: its id, its public key and the text that is shown once."""

    token_id: str
    public_key: str
    text: str


MintToken = Callable[[], Awaitable[MintedToken]]


async def create_api_key(call: Call, kind: Kind, env: Environment, writer: Writer) -> Response:
    """Make an API key; the answer alone carries its secret.

    The object's name is the key's public id; the name asked for is kept as its description.
    """
    require(call.principal, "create", kind.name)
    document = parse_mapping(call.request.body)
    wanted = document.get("spec", document)
    if not isinstance(wanted, dict):
        raise invalid([Problem("/spec", "must be a mapping")])
    metadata = document.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    key = mint_key(env.random.randbytes(ENTROPY_BYTES))
    spec = {k: v for k, v in wanted.items() if k not in {"name", *kind.secret_fields}}
    spec |= {"description": wanted.get("description") or name or wanted.get("name", "")}
    spec |= dict.fromkeys(kind.secret_fields, key.sha256)
    problems = check_spec(kind, spec)
    if problems:
        raise invalid(problems)
    put = Put(kind=kind.name, namespace="", name=key.key_id, spec=spec, uid=env.new_id(), expect=0)
    return await writer.commit_one(call, kind, put, extra={"secret": key.text})


def find_api_key(call: Call, place: Place) -> Place:
    """Return the place of a key named by its id or its description. Raises CONFLICT."""
    store = call.cluster.store
    if store.get(place.kind.name, "", place.name) is not None:
        return place
    named = [r for r in store.list(place.kind.name) if r.spec.get("description") == place.name]
    if len(named) > 1:
        ids = ", ".join(r.metadata.name for r in named)
        raise BlixardError("CONFLICT", f"several keys are called {place.name!r}: {ids}")
    return Place(place.kind, "", named[0].metadata.name) if named else place


async def create_join_token(
    call: Call, kind: Kind, env: Environment, writer: Writer, mint: MintToken
) -> Response:
    """Make a one-time join token; the answer alone carries it."""
    require(call.principal, "create", kind.name)
    body: Any = parse_mapping(call.request.body)
    problems = collect_problems(JoinTokenWish, body)
    if problems:
        raise invalid(problems)
    wish = msgspec.convert(body, JoinTokenWish)
    if not 0 < wish.ttl_s <= TTL_MAX_S:
        raise invalid([Problem("/ttlS", f"more than 0, at most {TTL_MAX_S:.0f} seconds")])
    token = await mint()
    spec: dict[str, Any] = {
        "publicKey": token.public_key,
        "expiresAtMs": env.wall_time_ms() + int(wish.ttl_s * 1000),
        "nodeName": wish.node_name,
        "address": wish.address,
        "roles": list(wish.roles),
    }
    problems = check_spec(kind, spec)
    if problems:
        raise invalid(problems)
    put = Put(
        kind=kind.name, namespace="", name=token.token_id, spec=spec, uid=env.new_id(), expect=0
    )
    return await writer.commit_one(call, kind, put, extra={"token": token.text})
