"""Calls of functions: the simulator's own names, and bugs that the rules of calls notice."""

import msgspec
import pytest
from tests.simulation.mutants import patched

from blixard.functions import shares
from blixard.functions.loops import FunctionNode
from blixard.functions.pool import Instance, NodePool
from blixard.node.functions import FunctionGateway
from blixard.simulation.scenarios.functions import HTTP_EVENT
from blixard.simulation.scenarios.stage import BrokenPromiseError
from blixard.simulation.scenarios.table import run_scenario
from blixard.simulation.serverless import ServerlessSimulator

pytestmark = pytest.mark.simulation


def test_cold_start_takes_less_than_ten_milliseconds():
    with ServerlessSimulator(7) as sim:
        sim.set_vm_boot_time(0.005)
        sim.deploy_function("test-func")
        began = sim.now()
        call = sim.invoke_function("test-func", HTTP_EVENT)
        assert call.result == {"event": HTTP_EVENT}
        assert 0.005 < call.latency_s < 0.010
        assert sim.now() - began >= call.latency_s
        warm = sim.invoke_function("test-func", HTTP_EVENT)
        assert warm.latency_s < 0.005 or warm.headers["blixard-function-cold"] == "true"


def test_thousand_concurrent_requests_all_succeed():
    with ServerlessSimulator(8) as sim:
        sim.set_vm_boot_time(0.005)
        sim.deploy_function("test-func")
        for number in range(1000):
            sim.spawn_request("test-func", {"n": number})
        sim.run_until_idle()
        assert sim.successful_invocations() == 1000


def test_calls_repeat_themselves():
    def run(seed):
        with ServerlessSimulator(seed, nodes=1) as sim:
            sim.deploy_function("test-func")
            sim.invoke_function("test-func", {})
            return sim.finish().trace_hash

    assert run(3) == run(3) != run(4)


def test_failing_handlers_are_told_from_lost_ones():
    with ServerlessSimulator(9) as sim:
        for name, handler in (("fails", "main.fail"), ("crashes", "main.crash")):
            sim.deploy_function(name, handler=handler)
        sim.deploy_function("hurried", handler="main.sleep", timeout="200ms")
        failed = sim.invoke_function("fails", {})
        assert (failed.code, failed.result["details"]["errorType"]) == (
            "FUNCTION_FAILED", "ValueError",
        )  # fmt: skip
        assert sim.invoke_function("crashes", {}).code == "OUTCOME_UNKNOWN"
        assert sim.invoke_function("hurried", {"seconds": 3}).code == "FUNCTION_TIMEOUT"
        assert sim.invoke_function("absent", {}).code == "NOT_FOUND"


def test_code_that_cannot_be_loaded_fails_its_calls():
    with ServerlessSimulator(10, nodes=1) as sim:
        sim.deploy_function("broken", handler="main.nowhere")
        assert sim.invoke_function("broken", {}).code == "FUNCTION_LOAD_FAILED"


def test_memory_of_functions_is_apart_from_that_of_vms():
    with ServerlessSimulator(11, nodes=1, function_memory_mib=256) as sim:
        sim.set_vm_boot_time(0.005)
        sim.deploy_function("small", handler="main.sleep")
        for _ in range(8):
            sim.spawn_request("small", {"seconds": 0.1})
        sim.run_until_idle()
        assert sim.successful_invocations() == 8
        assert sim.stage.oracles.calls.most["small"] == 2


def test_simulator_refuses_to_go_on_after_a_broken_promise():
    sim = ServerlessSimulator(12, nodes=1)
    sim.deploy_function("test-func")
    with answers_of_the_call_before():
        sim.invoke_function("test-func", {"n": 1})
        with pytest.raises(BrokenPromiseError, match="another's result"):
            sim.invoke_function("test-func", {"n": 2})
    sim.stage.world.close()


def answers_of_the_call_before():
    """A gateway mixes up two answers."""
    route = FunctionGateway.route
    before = []

    async def mixed_up(gateway, request):
        before.append(await route(gateway, request))
        return before[-2] if len(before) > 1 else before[-1]

    return patched(FunctionGateway, "route", mixed_up)


def busy_instances_are_given_out():
    """An instance that is given to a call stays among the idle ones."""
    serve = NodePool._serve

    def twice(pool, function, now_s, *, may_start):
        waiting, idle = len(function.waiting), list(function.idle)
        serve(pool, function, now_s, may_start=may_start)
        if waiting and idle:
            function.idle.append(idle[-1])

    return patched(NodePool, "_serve", twice)


def every_node_has_the_whole_limit():
    """The limit of a function counts per node."""
    return patched(shares, "share", lambda total, _nodes, _place: total)


def worn_instances_are_used_again():
    """A handler that ran out of time counts as one that answered."""
    return patched(FunctionNode, "reusable", lambda _node, _status: True)


def leftovers_are_taken_for_idle():
    """A restarted daemon takes the guests that it finds for its own."""
    begin, prepared = FunctionNode.begin, NodePool.prepared
    found = {}

    def keep(node, processes):
        mine = [p for p in processes if p.plan.purpose == "function" and p.state == "running"]
        found[id(node.pool)] = mine
        begin(node, [p for p in processes if p not in mine])

    def adopt(pool, duty):
        prepared(pool, duty)
        function = pool._functions[duty.uid]
        for process in found.pop(id(pool), ()):
            if process.plan.name.rpartition("-")[0] != duty.name:
                found.setdefault(id(pool), []).append(process)
                continue
            instance = Instance(process.instance_uid, duty, "idle", 1e9)
            function.alive[instance.uid] = instance
            function.idle.append(instance)
            pool._of[instance.uid] = function
            pool._used_mib += duty.memory_mib

    class Both:
        def __enter__(self):
            self.patches = (
                patched(FunctionNode, "begin", keep), patched(NodePool, "prepared", adopt),
            )  # fmt: skip
            for patch in self.patches:
                patch.__enter__()

        def __exit__(self, *error):
            for patch in self.patches:
                patch.__exit__(*error)

    return Both()


def memory_of_ending_guests_counts_as_free():
    """Memory is given out again as soon as its guest is told to end."""
    end = NodePool._end

    def at_once(pool, instance):
        end(pool, instance)
        pool._used_mib -= instance.duty.memory_mib
        instance.duty = msgspec.structs.replace(instance.duty, memory_mib=0)

    return patched(NodePool, "_end", at_once)


def lost_calls_are_repeated():
    """A call of which nobody knows whether it ran is sent to another node."""
    run_at = FunctionGateway._run_at

    async def again(gateway, node, request):
        try:
            return await run_at(gateway, node, request)
        except Exception as error:
            if getattr(error, "code", "") == "OUTCOME_UNKNOWN":
                error.details["refused"] = True
            raise

    return patched(FunctionGateway, "_run_at", again)


def calls_wait_for_ever():
    """A call that waits is not told that there is no room for it."""
    return patched(NodePool, "_expire", lambda _pool, _function, _now_s: None)


@pytest.mark.parametrize(
    ("name", "plant", "oracle"),
    [
        ("functions/thousand-at-once", answers_of_the_call_before, "another's result"),
        ("functions/thousand-at-once", busy_instances_are_given_out, "one call"),
        ("functions/limits", every_node_has_the_whole_limit, "limit"),
        ("functions/limits", calls_wait_for_ever, "limits"),
        ("functions/under-faults", worn_instances_are_used_again, "worn instance"),
        ("functions/under-faults", leftovers_are_taken_for_idle, "leftover"),
        ("functions/under-faults", memory_of_ending_guests_counts_as_free, "function memory"),
        ("functions/under-faults", lost_calls_are_repeated, "at most once"),
    ],
)
def test_rules_of_calls_notice_a_planted_bug(name, plant, oracle):
    with plant():
        report = run_scenario(name, 1)
    assert oracle in " ".join(report.violations)
