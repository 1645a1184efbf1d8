from __future__ import annotations

from typing import Any

import pytest
from authorities import TestAuthority
from hypothesis import given
from hypothesis import strategies as st

from blixard.base.errors import BlixardError
from blixard.cluster.resources import Metadata, Resource
from blixard.security import identity, keys, principals
from blixard.security.principals import ANONYMOUS, ROLES, ROOT, Principal, authorise, permits

NOW_MS = 1_800_000_000_000
MINTED = keys.mint_key(bytes(range(64)))
VIEWER = Principal(kind="user", name="eve", role="viewer")
ADMIN = Principal(kind="user", name="ada", role="admin")


def _key(**spec: Any) -> Resource:
    fields = {"hash": MINTED.sha256, "role": "viewer", **spec}
    return Resource(kind="ApiKey", metadata=Metadata(name=MINTED.key_id), spec=fields)


def test_superuser_and_daemon_user_are_root() -> None:
    for uid in (0, 990):
        assert principals.from_peer_credentials(uid, [], own_uid=990, group_roles={}) == ROOT
    assert ROOT.actor == "system:root"


def test_group_gives_its_configured_role() -> None:
    roles = {50: "viewer", 60: "admin", 70: "root"}
    found = [
        principals.from_peer_credentials(1000, groups, own_uid=990, group_roles=roles).role
        for groups in ([], [50], [50, 60], [70], [51])
    ]
    assert found == ["", "viewer", "admin", "", ""]


def test_certificates_name_users_and_nodes() -> None:
    authority = TestAuthority()
    user = identity.from_pem(authority.user("alice").chain_pem)
    node = identity.from_pem(authority.node("N1", epoch=4).chain_pem)
    assert principals.from_certificate(user, {"alice": "admin"}).role == "admin"
    assert principals.from_certificate(user, {"alice": "root"}).role == ""
    assert principals.from_certificate(user, {}).role == ""
    assert principals.from_certificate(node, {"N1": "admin"}) == Principal(
        kind="node", name="N1", role="node", epoch=4
    )


def test_key_gives_its_role_until_expiry() -> None:
    resource = _key(expiresAtMs=NOW_MS)
    found = principals.from_key(MINTED.text, lambda _id: resource, now_ms=NOW_MS - 1)
    assert (found.kind, found.name, found.role) == ("key", MINTED.key_id, "viewer")


@pytest.mark.parametrize("resource", [None, _key(hash="0" * 64), _key(expiresAtMs=NOW_MS)])
def test_bad_keys_are_refused_alike(resource: Resource | None) -> None:
    with pytest.raises(BlixardError) as caught:
        principals.from_key(MINTED.text, lambda _id: resource, now_ms=NOW_MS)
    assert caught.value.message == "the API key is unknown, wrong or expired"


def test_refusal_names_permission_and_roles() -> None:
    refusal = authorise(VIEWER, "delete", "vm", "shop")
    assert refusal is not None
    assert refusal.code == "FORBIDDEN"
    assert refusal.message == "user:eve lacks vm:delete in namespace shop"
    assert refusal.hint == "roles that grant it: admin"


def test_viewer_reads_and_admin_writes() -> None:
    assert authorise(VIEWER, "get", "vm", "default") is None
    assert authorise(VIEWER, "exec", "vm", "default") is not None
    assert authorise(ADMIN, "exec", "vm", "default") is None
    assert authorise(ROOT, "recover", "cluster", "") is None
    assert authorise(ADMIN, "recover", "cluster", "") is not None


def test_anonymous_is_asked_to_authenticate() -> None:
    refusal = authorise(ANONYMOUS, "get", "vm", "default")
    assert refusal is not None
    assert refusal.code == "UNAUTHENTICATED"


def test_strong_permissions_need_their_own_name() -> None:
    assert not permits({"*:*", "secret:*", "*:read-value"}, "secret", "read-value")
    assert permits({"secret:read-value"}, "secret", "read-value")


@pytest.mark.parametrize(("kind", "verb"), [("", "get"), ("vm", ""), ("*", "get"), ("vm", "*")])
def test_empty_and_wild_questions_match_nothing(kind: str, verb: str) -> None:
    assert not permits({"*:*", "vm:get", ":get", "vm:"}, kind, verb)


def test_unknown_role_may_nothing() -> None:
    stranger = Principal(kind="user", name="x", role="Admin")
    assert authorise(stranger, "get", "vm", "") is not None
    assert ROLES[""] == frozenset()


_NAMES = st.sampled_from(["vm", "node", "secret", "get", "delete", "read-value"])
_SIDES = st.sampled_from(["*", "vm", "node", "secret", "get", "delete", "read-value"])


@given(st.frozensets(st.tuples(_SIDES, _SIDES), max_size=4), _NAMES, _NAMES)
def test_decision_agrees_with_plain_model(
    pairs: frozenset[tuple[str, str]], kind: str, verb: str
) -> None:
    strong = f"{kind}:{verb}" in principals.NEVER_BY_WILDCARD
    model = any(
        (k == kind and v == verb) or (not strong and k in {"*", kind} and v in {"*", verb})
        for k, v in pairs
    )
    assert permits({f"{k}:{v}" for k, v in pairs}, kind, verb) == model
