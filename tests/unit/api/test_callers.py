"""Whose request it is: judged where it is answered, from what the caller itself showed."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from harness import NOW_MS, Node, World, app, load, path, stream_pair

from blixard.api import events, vigil
from blixard.api.forwarding import FORWARD
from blixard.api.messages import (
    Caller,
    LocalUser,
    Request,
    WireRequest,
    decode_response,
    encode_request,
)
from blixard.api.service import ApiHandlers
from blixard.api.standing import SubResource
from blixard.base.errors import BlixardError
from blixard.cluster.resources import Delete, PatchStatus, Put
from blixard.security.identity import Identity, PeerCertificate
from blixard.security.principals import ROOT, Principal

ADMIN_UID = Principal(kind="user", name="uid-1000", role="admin")


def alice(node_after_ms: int = NOW_MS + 1000) -> PeerCertificate:
    identity = Identity(trust_domain="c.blixard", kind="user", name="alice")
    return PeerCertificate(
        identity=identity, not_before_ms=0, not_after_ms=node_after_ms, serial="1", fingerprint="f"
    )


def judge(der: bytes) -> PeerCertificate:
    if der != b"alice":
        raise BlixardError("UNAUTHENTICATED", "not of our authority")
    return alice()


async def _echo(_call: Any, stream: Any) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


async def cluster() -> tuple[World, Node, Node]:
    """Return a leader that judges certificates, and a worker."""
    world = World()
    options: dict[str, Any] = {
        "sub_resources": (
            SubResource(kind="App", name="echo", verb="exec", stream=_echo),
            SubResource(kind="Instance", name="exec", verb="exec", stream=_echo),
        ),
        "handlers": ApiHandlers(check_certificate=judge),
    }
    leader = Node(world, "n1", **options)
    worker = Node(world, "n3", leader, replica=False, leads=False, others=("n1",), **options)
    return world, await leader.prepare(localUsers="own"), worker


async def set_config(leader: Node, labels: dict[str, str] | None = None, **spec: Any) -> None:
    body = {"metadata": {"name": "cluster", "labels": labels or {}}, "kind": "ClusterConfig"}
    body["spec"] = {"clusterId": "c", **spec}
    assert (await leader.call("PUT", "/v1/clusterconfigs/cluster", body)).status in {200, 201}


async def as_node(world: World, uid: str, request: WireRequest) -> dict[str, Any]:
    """Return what the leader answers to whatever bytes a node makes up."""
    handler = world.handlers["n1", FORWARD]
    try:
        answer = await handler(uid, msgspec.msgpack.encode(request))
    except BlixardError as error:
        return {"code": error.code, "message": error.message}
    body: dict[str, Any] = load(decode_response(answer))
    return body


def made_up(**credential: Any) -> WireRequest:
    return WireRequest("GET", "/v1/apps", {}, {}, b"", 1.0, "", **credential)


def test_local_users_of_a_node_are_judged_as_that_nodes():
    async def main() -> None:
        _, leader, worker = await cluster()
        seen: list[str] = []
        commit = leader.service._standing.replica().commit  # type: ignore[union-attr]

        async def spy(*args: Any, **kwargs: Any) -> Any:
            seen.append(kwargs["actor"])
            return await commit(*args, **kwargs)

        leader.service._standing.replica().commit = spy  # type: ignore
        await set_config(leader, localUsers="nodes")
        seen.clear()
        assert (await worker.call("PUT", path("a"), app("a"))).status == 201
        assert (await worker.call("PUT", path("b"), app("b"), principal=ADMIN_UID)).status == 201
        assert (await leader.call("PUT", path("c"), app("c"))).status == 201
        assert seen == ["node/node3/root", "node/node3/uid-1000", "system:root"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("policy", "from_voter", "from_worker"),
    [
        ("nodes", None, None),
        ("own", None, "FORBIDDEN"),
        ("voters", None, "FORBIDDEN"),
        ("none", "FORBIDDEN", "FORBIDDEN"),
    ],
)
def test_policy_refuses_the_word_of_nodes(
    policy: str, from_voter: str | None, from_worker: str | None
) -> None:
    async def main() -> None:
        world, leader, _ = await cluster()
        await set_config(leader, localUsers=policy)
        root = made_up(local=LocalUser("root", "root"))
        assert (await as_node(world, "n2", root)).get("code") == from_voter
        assert (await as_node(world, "n3", root)).get("code") == from_worker
        assert "code" not in load(await leader.call("GET", "/v1/apps"))

    asyncio.run(main())


async def with_instances() -> tuple[World, Node, Node]:
    """Return the cluster with an instance on the worker and one elsewhere."""
    world, leader, worker = await cluster()
    replica = leader.replica()
    assert replica is not None
    for name, node in (("here-1", "n3"), ("there-1", "n1")):
        put = Put(kind="Instance", namespace="default", name=name, spec={"node": node}, uid=name)
        await replica.commit((put,), actor="test", timeout_s=1)
    return world, leader, worker


INSTANCES = "/v1/namespaces/default/instances"


def test_root_of_a_worker_reaches_what_runs_there_only():
    async def main() -> None:
        _, leader, worker = await with_instances()
        shown = load(await worker.call("GET", INSTANCES))["items"]
        assert [i["metadata"]["name"] for i in shown] == ["here-1"]
        assert (await worker.call("GET", f"{INSTANCES}/here-1")).status == 200
        assert (await worker.call("GET", "/v1/nodes")).status == 200
        refused = load(await worker.call("GET", f"{INSTANCES}/there-1"))
        assert (refused["code"], refused["detail"]) == (
            "FORBIDDEN",
            "instance/there-1 is on another node than node3",
        )
        for method, target, body in (
            ("GET", "/v1/apps", None),
            ("GET", "/v1/apikeys", None),
            ("GET", "/v1/kv/app", None),
            ("PUT", path("x"), app("x")),
            ("DELETE", "/v1/nodes/node1", None),
            ("POST", "/v1/apikeys", {"name": "mine", "role": "admin"}),
        ):
            answer = load(await worker.call(method, target, body))
            assert answer["code"] == "FORBIDDEN", (target, answer)
            assert "API key" in answer["hint"]
        assert len(load(await leader.call("GET", INSTANCES))["items"]) == 2
        user = await worker.call("GET", INSTANCES, principal=ADMIN_UID)
        assert load(user)["code"] == "FORBIDDEN"

    asyncio.run(main())


def test_streams_of_a_worker_end_at_its_own_instances():
    async def main() -> None:
        _, _, worker = await with_instances()
        caller = Caller(principal=ROOT)
        for name, allowed in (("here-1", True), ("there-1", False)):
            request = Request(method="POST", path=f"{INSTANCES}/{name}/exec", caller=caller)
            near, far = stream_pair()
            if not allowed:
                with pytest.raises(BlixardError, match="on another node") as refused:
                    await worker.service.open(request)
                assert refused.value.code == "FORBIDDEN"
                continue
            run = asyncio.ensure_future((await worker.service.open(request))(far))
            await near.send(b"x")
            assert await near.receive() == b"x"
            run.cancel()

    asyncio.run(main())


def test_watch_of_a_worker_shows_its_own_instances():
    async def main() -> None:
        _, leader, worker = await with_instances()
        response = await worker.call("GET", f"{INSTANCES}?watch=true")
        assert response.chunks is not None
        replica = leader.replica()
        assert replica is not None
        for name, node in (("there-2", "n1"), ("here-2", "n3")):
            put = Put(
                kind="Instance", namespace="default", name=name, spec={"node": node}, uid=name
            )
            await replica.commit((put,), actor="test", timeout_s=1)
        seen = b""
        async with asyncio.timeout(5):
            async for chunk in response.chunks:
                seen += chunk
                if b"here-2" in seen:
                    break
        assert b"here-1" in seen
        assert b"there" not in seen

    asyncio.run(main())


def test_node_cannot_make_a_caller_of_its_own():
    async def main() -> None:
        world, leader, _ = await cluster()
        await set_config(leader, localUsers="none")
        for credential in (
            {"certificate_der": b"mallory"},
            {"api_key": "blx_k1_madeup"},
            {"local": LocalUser("root", "root")},
            {"local": LocalUser("user", "uid-0", "root")},
            {},
        ):
            answer = await as_node(world, "n3", made_up(**credential))
            assert answer["code"] in {"UNAUTHENTICATED", "FORBIDDEN"}, credential

    asyncio.run(main())


def test_said_role_is_never_more_than_can_be_given():
    async def main() -> None:
        world, _, _ = await cluster()
        answer = await as_node(world, "n3", made_up(local=LocalUser("user", "uid-1", "root")))
        assert answer["code"] == "FORBIDDEN"

    asyncio.run(main())


def test_certificate_travels_and_is_judged_by_the_leader():
    async def main() -> None:
        _, leader, worker = await cluster()
        caller = Caller(certificate=alice(), certificate_der=b"alice")
        request = Request(method="GET", path="/v1/apps", caller=caller)
        assert load(await worker.service.handle(request))["code"] == "FORBIDDEN"
        await set_config(leader, labels={"blixard.dev/user-role.alice": "viewer"})
        assert load(await worker.service.handle(request))["items"] == []
        assert encode_request(request, remaining_s=1).count(b"alice") == 1
        leader.env.now_ms += 2000
        assert load(await worker.service.handle(request))["code"] == "UNAUTHENTICATED"

    asyncio.run(main())


def test_removed_node_speaks_for_nobody():
    async def main() -> None:
        world, leader, _ = await cluster()
        root = made_up(local=LocalUser("root", "root"))
        await set_config(leader, localUsers="nodes")
        assert "code" not in await as_node(world, "n3", root)
        replica = leader.replica()
        assert replica is not None
        op = Delete(kind="Node", namespace="", name="node3")
        await replica.commit((op,), actor="test", timeout_s=1)
        answer = await as_node(world, "n3", root)
        assert answer["code"] == "NODE_REMOVED"
        answer = await as_node(world, "n3", made_up(certificate_der=b"alice"))
        assert answer["code"] == "NODE_REMOVED"

    asyncio.run(main())


async def _key(leader: Node) -> tuple[str, str]:
    made = load(await leader.call("POST", "/v1/apikeys", {"name": "ci", "role": "admin"}))
    return made["secret"], made["metadata"]["name"]


def test_watch_ends_when_its_key_is_revoked(monkeypatch):
    monkeypatch.setattr(events, "RECHECK_S", 0.01)

    async def main() -> None:
        _, leader, worker = await cluster()
        key, name = await _key(leader)
        for node in (leader, worker):
            seen = b""
            if node is worker:
                key, name = await _key(leader)
            response = await node.call("GET", "/v1/apps?watch=true", principal=None, key=key)
            assert response.chunks is not None
            assert (await leader.call("DELETE", f"/v1/apikeys/{name}")).status == 200
            await leader.call("PUT", path(f"secret-{node.own_uid}"), app())
            async with asyncio.timeout(5):
                async for chunk in response.chunks:
                    seen += chunk
            assert b"UNAUTHENTICATED" in seen

    asyncio.run(main())


def test_two_way_stream_ends_when_its_key_is_revoked(monkeypatch):
    monkeypatch.setattr(vigil, "RECHECK_S", 0.01)

    async def main() -> None:
        _, leader, _ = await cluster()
        await leader.call("PUT", path(), app())
        key, name = await _key(leader)
        request = Request(method="POST", path=path() + "/echo", caller=Caller(api_key=key))
        run = await leader.service.open(request)
        near, far = stream_pair()
        task = asyncio.ensure_future(run(far))
        await near.send(b"x")
        assert await near.receive() == b"x"
        await leader.call("DELETE", f"/v1/apikeys/{name}")
        with pytest.raises(BlixardError) as refused:
            await asyncio.wait_for(task, 5)
        assert refused.value.code == "UNAUTHENTICATED"

    asyncio.run(main())


def test_streams_end_on_a_node_that_lost_the_leader(monkeypatch):
    for module in (vigil, events):
        monkeypatch.setattr(module, "RECHECK_S", 0.01)
    monkeypatch.setattr(vigil, "SILENCE_MAX_S", 0.0)

    async def main() -> None:
        _, leader, _ = await cluster()
        await leader.call("PUT", path(), app())
        watch = await leader.call("GET", "/v1/apps?watch=true")
        run = await leader.service.open(
            Request(method="POST", path=path() + "/echo", caller=Caller(principal=ROOT))
        )
        near, far = stream_pair()
        task = asyncio.ensure_future(run(far))
        await near.send(b"x")
        assert await near.receive() == b"x"
        leader.touch = False
        with pytest.raises(BlixardError) as refused:
            await asyncio.wait_for(task, 5)
        assert refused.value.code == "NO_QUORUM"
        assert watch.chunks is not None
        async with asyncio.timeout(5):
            assert b"NO_QUORUM" in b"".join([chunk async for chunk in watch.chunks])

    asyncio.run(main())


def test_short_silence_of_the_leader_ends_nothing():
    now_s, touch = [10.0], [False]
    contact = vigil.Contact(lambda: touch[0], lambda: now_s[0])
    for moment_s, heard in ((12.0, False), (13.0, True), (15.0, False)):
        now_s[0], touch[0] = moment_s, heard
        contact.check()
    now_s[0] = 15.1
    with pytest.raises(BlixardError, match="lost the leader"):
        contact.check()


def test_allowed_stream_goes_on_and_its_own_errors_pass(monkeypatch):
    monkeypatch.setattr(vigil, "RECHECK_S", 0.001)

    async def main() -> None:
        asked: list[int] = []
        await vigil.while_allowed(lambda: asked.append(1), asyncio.sleep(0.05))
        assert len(asked) > 2

        async def late() -> None:
            raise TimeoutError("of its own")

        with pytest.raises(TimeoutError, match="of its own"):
            await vigil.while_allowed(lambda: None, late())

    asyncio.run(main())


def test_client_that_leaves_ends_what_is_under_way():
    async def main() -> None:
        presence, ended = vigil.Presence(), asyncio.Event()

        async def follow() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        task = asyncio.ensure_future(vigil.while_present(presence, follow()))
        await asyncio.sleep(0)
        presence.leave()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(task, 5)
        assert ended.is_set()

    asyncio.run(main())


def test_fenced_epoch_ends_a_nodes_own_calls():
    async def main() -> None:
        _, leader, _ = await cluster()
        identity = Identity(trust_domain="c.blixard", kind="node", name="n3", epoch=1)
        certificate = PeerCertificate(
            identity=identity, not_before_ms=0, not_after_ms=NOW_MS * 2, serial="2", fingerprint="g"
        )
        replica = leader.replica()
        assert replica is not None
        for epoch, code in ((1, None), (2, "UNAUTHENTICATED")):
            status = PatchStatus(
                kind="Node", namespace="", name="node3", uid="n3", status={"epoch": epoch}
            )
            await replica.commit((status,), actor="test", timeout_s=1)
            request = Request(
                method="GET", path="/v1/nodes", caller=Caller(certificate=certificate)
            )
            assert load(await leader.service.handle(request)).get("code") == code

    asyncio.run(main())
