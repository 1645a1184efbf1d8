"""Calls of functions by the simulator's own names."""

import pytest
from tests.simulation.planted_functions import answers_of_the_call_before

from blixard.simulation.scenarios.functions import HTTP_EVENT
from blixard.simulation.scenarios.stage import BrokenPromiseError
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
