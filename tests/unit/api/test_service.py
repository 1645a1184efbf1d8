from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import NOW_MS, Node, World, app, load, path, stream_pair

from blixard.api.messages import Request
from blixard.api.standing import SubResource
from blixard.base.errors import BlixardError
from blixard.base.ids import ulid
from blixard.security.principals import Principal

VIEWER = Principal(kind="user", name="ann", role="viewer")


def run(test: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await test(await Node(World(), "n1").prepare())

    asyncio.run(main())


def test_put_creates_then_replaces_then_changes_nothing():
    async def test(node: Node) -> None:
        made = await node.call("PUT", path(), app(size=1))
        assert made.status == 201
        changed = await node.call("PUT", path(), app(size=2))
        same = await node.call("PUT", path(), app(size=2))
        assert (changed.status, same.status) == (200, 200)
        assert load(changed)["metadata"]["generation"] == 2
        assert load(same)["metadata"]["revision"] == load(changed)["metadata"]["revision"]

    run(test)


def test_post_of_a_taken_name_conflicts():
    async def test(node: Node) -> None:
        assert (await node.call("POST", "/v1/apps", app())).status == 201
        again = load(await node.call("POST", "/v1/apps", app()))
        assert (again["code"], again["status"]) == ("ALREADY_EXISTS", 409)

    run(test)


def test_stale_precondition_conflicts():
    async def test(node: Node) -> None:
        await node.call("PUT", path(), app())
        answer = load(await node.call("PUT", path(), app(size=3), if_match='"999"'))
        assert answer["code"] == "CONFLICT"

    run(test)


def test_all_problems_of_a_document_at_once():
    async def test(node: Node) -> None:
        body = app(size="x", colr="red", color=4)
        body["metadata"]["labels"] = {"a b": 1}
        body["extra"] = 1
        answer = load(await node.call("PUT", path(), body))
        pointers = {p["pointer"] for p in answer["problems"]}
        assert {
            "/spec/size",
            "/spec/colr",
            "/spec/color",
            "/extra",
            "/metadata/labels/a b",
        } <= pointers
        assert node.raft.proposals == 1

    run(test)


def test_apply_is_all_or_nothing_over_documents():
    async def test(node: Node) -> None:
        bad = load(
            await node.call("POST", "/v1/apply", [app("a"), app("b", size="x"), {"kind": "Q"}])
        )
        assert {p["pointer"] for p in bad["problems"]} == {"/1/spec/size", "/2/kind"}
        good = load(await node.call("POST", "/v1/apply", [app("a"), app("b")]))
        assert [i["result"] for i in good["items"]] == ["created", "created"]
        assert node.raft.proposals == 2

    run(test)


def test_dry_run_proposes_nothing_and_shows_the_change():
    async def test(node: Node) -> None:
        await node.call("PUT", path(), app(size=1))
        before = node.raft.proposals
        one = load(await node.call("PUT", path() + "?dryRun=true", app(size=2)))
        many = load(await node.call("POST", "/v1/apply?dryRun=true", [app(size=2)]))
        assert one["spec"] == {"size": 2}
        assert many["items"][0]["before"]["spec"] == {"size": 1}
        assert node.raft.proposals == before

    run(test)


def test_viewer_reads_but_may_not_write():
    async def test(node: Node) -> None:
        assert (await node.call("GET", "/v1/apps", principal=VIEWER)).status == 200
        refused = load(await node.call("PUT", path(), app(), principal=VIEWER))
        assert refused["code"] == "FORBIDDEN"
        assert (await node.call("GET", "/v1/apps", principal=None)).status == 401

    run(test)


def test_internal_kinds_are_not_written_by_clients():
    async def test(node: Node) -> None:
        body = {"spec": {"address": "a:1", "raftId": 3}}
        assert load(await node.call("PUT", "/v1/nodes/n9", body))["code"] == "FORBIDDEN"
        applied = load(await node.call("POST", "/v1/apply", [{"kind": "Node", "spec": {}}]))
        problem = applied["problems"][0]
        assert (problem["pointer"], problem["message"]) == (
            "/0/kind",
            "Node is written by the cluster itself",
        )
        assert len(applied["problems"]) == 1

    run(test)


def test_api_key_works_and_its_hash_is_hidden():
    async def test(node: Node) -> None:
        body = {"metadata": {"name": "ci"}, "spec": {"role": "viewer"}}
        made = load(await node.call("POST", "/v1/apikeys", body))
        assert "hash" not in made["spec"]
        listed = await node.call("GET", "/v1/apikeys", principal=None, key=made["secret"])
        assert (listed.status, b"hash" in listed.body) == (200, False), listed.body
        assert (await node.call("DELETE", "/v1/apikeys/ci")).status == 200
        assert (
            await node.call("GET", "/v1/apps", principal=None, key=made["secret"])
        ).status == 401

    run(test)


def test_repeated_request_id_is_applied_once():
    async def test(node: Node) -> None:
        request_id = ulid(NOW_MS, 7)
        first = await node.call("POST", "/v1/apps", app(), blixard_request_id=request_id)
        again = await node.call("POST", "/v1/apps", app(), blixard_request_id=request_id)
        assert (first.status, again.status) == (201, 201)
        assert first.headers["blixard-request-id"] == request_id

    run(test)


def test_lost_outcome_is_repeated_under_the_same_id():
    async def test(node: Node) -> None:
        node.raft.lose = [BlixardError("OUTCOME_UNKNOWN")]
        assert (await node.call("POST", "/v1/apps", app())).status == 201

    run(test)


def test_no_leader_says_no_quorum_within_the_deadline():
    async def test(node: Node) -> None:
        node._leads = False
        answer = load(await node.call("PUT", path(), app(), blixard_timeout="0.2s"))
        assert answer["code"] == "NO_QUORUM"

    run(test)


def test_bad_requests_get_their_codes():
    async def test(node: Node) -> None:
        cases = {
            "BAD_REQUEST": await node.call("PUT", path(), b"{"),
            "UNKNOWN_KIND": await node.call("GET", "/v1/nonsense"),
            "METHOD_NOT_ALLOWED": await node.call("PATCH", path()),
            "NOT_FOUND": await node.call("GET", path("absent")),
            "REQUEST_ID_INVALID": await node.call("PUT", path(), app(), idempotency_key="x"),
        }
        for code, response in cases.items():
            assert load(response)["code"] == code
            assert response.content_type == "application/problem+json"
        deep = await node.call("PUT", path(), b"[" * 200_000)
        assert load(deep)["code"] == "BAD_REQUEST"

    run(test)


def test_lists_select_by_label_and_field_in_pages():
    async def test(node: Node) -> None:
        for n in range(5):
            body = app(f"a{n}", size=n)
            body["metadata"]["labels"] = {"odd": str(n % 2)}
            await node.call("PUT", path(f"a{n}"), body)
        odd = load(await node.call("GET", "/v1/apps?labelSelector=odd=1"))
        assert [i["metadata"]["name"] for i in odd["items"]] == ["a1", "a3"]
        big = load(await node.call("GET", "/v1/apps?fieldSelector=spec.size!=4"))
        assert len(big["items"]) == 4
        page = load(await node.call("GET", "/v1/apps?limit=2"))
        rest = load(await node.call("GET", f"/v1/apps?continue={page['continue']}"))
        assert len(page["items"]) + len(rest["items"]) == 5

    run(test)


def test_stale_read_waits_for_no_barrier():
    async def test(node: Node) -> None:
        await node.call("GET", "/v1/apps?stale=true")
        assert node.raft.barriers == 0
        await node.call("GET", "/v1/apps")
        assert node.raft.barriers == 1

    run(test)


def test_key_values_by_path():
    async def test(node: Node) -> None:
        put = load(await node.call("PUT", "/v1/kv/app/color", {"value": "blue"}, if_match='"0"'))
        again = load(await node.call("PUT", "/v1/kv/app/color", {"value": "red"}, if_match='"0"'))
        assert again["code"] == "ALREADY_EXISTS"
        got = load(await node.call("GET", "/v1/kv/app/color"))
        assert (got["value"], got["revision"]) == ("blue", put["revision"])
        assert len(load(await node.call("GET", "/v1/kv?prefix=app/"))["items"]) == 1
        assert (await node.call("DELETE", "/v1/kv/app/color")).status == 200
        assert (await node.call("PUT", "/v1/kv/../x", {"value": 1})).status == 422

    run(test)


def cluster_of_three() -> tuple[World, Node, Node, Node]:
    world = World()
    sub = SubResource(kind="App", name="shout", verb="exec", stream=_shout)
    leader = Node(world, "n1", sub_resources=(sub,))
    follower = Node(world, "n2", leader, leads=False, others=("n1",), sub_resources=(sub,))
    worker = Node(
        world, "n3", leader, replica=False, leads=False, others=("n2", "n1"), sub_resources=(sub,)
    )
    return world, leader, follower, worker


async def _shout(_call: Any, stream: Any) -> None:
    while (frame := await stream.receive()) not in (None, b"end"):
        await stream.send(frame.upper())


def test_any_node_answers_with_the_original_principal():
    async def main() -> None:
        _, leader, follower, worker = cluster_of_three()
        await leader.prepare()
        assert (await follower.call("PUT", path("a"), app("a"))).status == 201
        assert (await worker.call("PUT", path("b"), app("b"))).status == 201
        assert len(load(await worker.call("GET", "/v1/apps"))["items"]) == 2
        refused = load(await worker.call("PUT", path("c"), app("c"), principal=VIEWER))
        assert refused["code"] == "FORBIDDEN"

    asyncio.run(main())


def test_unreachable_leader_is_no_quorum():
    async def main() -> None:
        world, leader, follower, _ = cluster_of_three()
        await leader.prepare()
        world.cut.add("n1")
        answer = load(await follower.call("PUT", path(), app(), blixard_timeout="300ms"))
        assert answer["code"] == "NO_QUORUM"

    asyncio.run(main())


def test_lost_answer_to_a_write_is_an_unknown_outcome():
    async def main() -> None:
        world, leader, follower, _ = cluster_of_three()
        await leader.prepare()
        world.lose_answers.add("n1")
        answer = load(await follower.call("PUT", path(), app(), blixard_timeout="300ms"))
        assert answer["code"] == "OUTCOME_UNKNOWN"
        assert len(load(await leader.call("GET", "/v1/apps"))["items"]) == 1

    asyncio.run(main())


def test_lost_answer_is_asked_again_under_the_same_id():
    async def main() -> None:
        world, leader, follower, _ = cluster_of_three()
        await leader.prepare()
        world.lose_answers.add("n1")
        write = asyncio.ensure_future(follower.call("PUT", path(), app()))
        while leader.machine.store.get("App", "default", "web") is None:
            await asyncio.sleep(0.01)
        world.lose_answers.clear()
        answer = await write
        assert answer.status == 201
        meta = load(answer)["metadata"]
        assert (meta["generation"], leader.machine.store.count("App")) == (1, 1)

    asyncio.run(main())


@pytest.mark.parametrize("code", ["OVERLOADED", "DISK_FULL"])
@pytest.mark.parametrize(("refusals", "answered"), [(1, 201), (1_000, 504)])
def test_refused_repetition_says_nothing_of_a_lost_answer(code, refusals, answered):
    async def main() -> None:
        world, leader, follower, _ = cluster_of_three()
        await leader.prepare()
        world.lose_answers.add("n1")
        write = asyncio.ensure_future(
            follower.call("PUT", path(), app(), blixard_timeout="1s" if refusals > 1 else "30s")
        )
        while leader.machine.store.get("App", "default", "web") is None:
            await asyncio.sleep(0.01)
        leader.raft.fail = [BlixardError(code)] * refusals
        world.lose_answers.clear()
        answer = await write
        assert answer.status == answered
        assert answered == 201 or load(answer)["code"] == "OUTCOME_UNKNOWN"

    asyncio.run(main())


def test_object_deleted_under_a_put_is_made_anew():
    async def main() -> None:
        leader = await Node(World(), "n1").prepare()
        await leader.call("PUT", path(), app())
        commit = leader.raft.propose

        async def delete_first(data: bytes, *, timeout_s: float) -> Any:
            leader.raft.propose = commit  # type: ignore[method-assign]
            await leader.call("DELETE", path())
            return await commit(data, timeout_s=timeout_s)

        leader.raft.propose = delete_first  # type: ignore[method-assign]
        answer = await leader.call("PUT", path(), app(size=3))
        assert (answer.status, load(answer)["spec"]["size"]) == (201, 3)

    asyncio.run(main())


def test_stream_passes_through_a_worker():
    async def main() -> None:
        from blixard.api.messages import Caller, Request
        from blixard.security.principals import ROOT

        _, leader, _, worker = cluster_of_three()
        await leader.prepare()
        await leader.call("PUT", path(), app())
        request = Request(method="POST", path=path() + "/shout", caller=Caller(principal=ROOT))
        assert worker.service.is_stream(request)
        near, far = stream_pair()
        carry_out = await worker.service.open(request)
        task = asyncio.ensure_future(carry_out(far))
        await near.send(b"hello")
        assert await near.receive() == b"HELLO"
        await near.send(b"end")
        await task

    asyncio.run(main())


def invoking_cluster(**options):
    """Return a voter and a worker whose apps can be called, and the calls that came through."""
    calls = []

    async def unary(call):
        calls.append((call.call.request.body, call.body))
        return {}

    sub = SubResource(kind="App", name="call", verb="call", unary=unary, raw=True, **options)
    world = World()
    leader = Node(world, "n1", sub_resources=(sub,))
    worker = Node(
        world, "n3", leader, replica=False, leads=False, others=("n1", "n2"), sub_resources=(sub,)
    )
    Node(world, "n2", leader, leads=False, sub_resources=(sub,))
    return world, leader, worker, calls


def test_call_with_a_lost_answer_is_not_sent_again():
    async def run():
        world, leader, worker, calls = invoking_cluster(once=True)
        await leader.prepare()
        await leader.call("PUT", path(), app())
        world.lose_answers.add("n1")
        answer = await worker.call("POST", path() + "/call", b"[1]")
        assert load(answer)["code"] == "OUTCOME_UNKNOWN"
        assert calls == [(b"[1]", {})]
        world.lose_answers.clear()
        world.cut.add("n1")  # surely not sent: another voter is asked
        assert (await worker.call("POST", path() + "/call", b"[2]")).status == 200
        assert len(calls) == 2

    asyncio.run(run())


def test_call_on_a_recent_state_asks_no_quorum():
    async def run():
        _, leader, _, calls = invoking_cluster(recent=True)
        await leader.prepare()
        await leader.call("PUT", path(), app())
        before = leader.raft.barriers
        await leader.call("POST", path() + "/call", b"1")
        assert leader.raft.barriers == before
        leader.touch = False
        await leader.call("POST", path() + "/call", b"1")
        assert leader.raft.barriers == before + 1
        assert load(await leader.call("POST", path("x") + "/call", b"1"))["code"] == "NOT_FOUND"
        assert leader.raft.barriers == before + 2
        assert len(calls) == 2

    asyncio.run(run())


def test_large_bodies_are_for_those_who_take_them():
    _, leader, _, _ = invoking_cluster(body_max=100)
    usual = Request(method="PUT", path=path())
    assert leader.service.body_max(usual, 10) == 10
    assert leader.service.body_max(Request(method="POST", path=path() + "/call"), 10) == 100
    assert leader.service.body_max(Request(method="POST", path="/nowhere"), 10) == 10
