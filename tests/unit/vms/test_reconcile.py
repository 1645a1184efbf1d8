"""What a node does next for one instance."""

import msgspec

from blixard.ports.hypervisor import HypervisorInstance, LaunchPlan
from blixard.vms.reconcile import (
    Assignment,
    History,
    after_check,
    after_exit,
    backoff_s,
    decide,
    start_overdue,
)
from blixard.vms.spec import LIFECYCLE, InstanceSpec

SPEC = InstanceSpec(vm="web", ordinal=1, node="n", run=3, node_epoch=1, memory_mib=128, vcpus=1)


def assigned(**changes):
    spec = msgspec.structs.replace(SPEC, **changes)
    return Assignment(uid="i", namespace="default", name="web-1", spec=spec)


def process(state="running", *, run=3, exit_code=None, killed=False, recipe="k"):
    plan = LaunchPlan(
        instance_uid="i",
        name="web-1",
        namespace="default",
        node_epoch=1,
        run=run,
        runner="r",
        memory_mib=128,
        vcpus=1,
        recipe=recipe,
    )
    return HypervisorInstance(
        instance_uid="i",
        plan=plan,
        state=state,
        pid=7,
        exit_code=exit_code,
        killed_by_guard=killed,
    )


def step(assignment, proc, history=None, *, authority=True, key="k", now=10.0):
    found = decide(
        assignment, proc, history or History(), authority=authority, recipe_key=key, now_s=now
    )
    return found.kind


def test_a_new_assignment_is_built_then_launched():
    assert step(assigned(), None) == "build"
    assert step(assigned(), None, History(built_for="k")) == "launch"


def test_without_authority_nothing_starts_or_stops():
    assert step(assigned(), None, History(built_for="k"), authority=False) == "wait"
    assert step(None, process(), History(next_check_s=99), authority=False) == "wait"


def test_what_is_no_longer_ours_is_stopped_and_removed():
    assert step(None, process()) == "stop"
    assert step(None, process("exited")) == "retire"
    assert step(None, None) == "end"


def test_an_older_run_is_stopped():
    assert step(assigned(), process(run=2)) == "stop"


def test_an_interrupted_start_is_killed():
    assert step(assigned(), process("paused")) == "kill"


def test_asked_to_stop_it_stops_and_rests():
    assert step(assigned(desired="Stopped"), process()) == "stop"
    assert step(assigned(desired="Stopped"), None) == "rest"


def test_a_changed_size_or_image_restarts():
    assert step(assigned(memory_mib=256, run=4), process()) == "stop"
    assert step(assigned(), process(recipe="old")) == "stop"
    assert step(assigned(), process(recipe=""), History(next_check_s=99)) == "wait"


def test_an_adopted_process_is_left_alone():
    assert step(assigned(), process(), History(next_check_s=99)) == "wait"


def test_a_failed_guest_waits_longer_each_time():
    history = History(built_for="k", launched_s=9.0)
    after_exit(SPEC, process("exited", exit_code=1), history, 10.0)
    assert (history.failures, history.next_launch_s) == (1, 11.0)
    assert step(assigned(), None, history, now=10.5) == "wait"
    assert step(assigned(), None, history, now=11.0) == "launch"
    after_exit(SPEC, process("exited", exit_code=1), history, 12.0)
    assert history.next_launch_s == 14.0
    assert [backoff_s(n) for n in (1, 2, 3, 20)] == [1, 2, 4, 300]


def test_a_stable_run_starts_the_back_off_anew():
    history = History(failures=7, launched_s=0.1)
    after_exit(SPEC, process("exited", exit_code=1), history, 100.0)
    assert history.failures == 1


def test_on_failure_keeps_a_clean_end():
    spec = msgspec.structs.replace(SPEC, restart_policy="OnFailure")
    history = History(built_for="k", restart_generation=0)
    after_exit(spec, process("exited", exit_code=0), history, 10.0)
    assert step(assigned(restart_policy="OnFailure"), None, history, now=99) == "rest"


def test_killed_by_the_guard_is_a_failure():
    spec = msgspec.structs.replace(SPEC, restart_policy="OnFailure")
    history = History()
    after_exit(spec, process("exited", exit_code=0, killed=True), history, 10.0)
    assert not history.completed
    assert "guard" in history.reason


def test_readiness_needs_several_misses_to_fall():
    history = History()
    after_check(SPEC, history, answered=True, now_s=1)
    assert history.ready
    after_check(SPEC, history, answered=False, now_s=2)
    after_check(SPEC, history, answered=False, now_s=3)
    assert history.ready
    after_check(SPEC, history, answered=False, now_s=4)
    assert not history.ready


def test_a_start_that_takes_too_long_is_noticed():
    assert start_overdue(SPEC, History(launched_s=1), 1 + SPEC.readiness.start_timeout_s + 1)
    assert not start_overdue(SPEC, History(launched_s=1, ready=True), 1e6)


def test_the_lifecycle_reaches_every_state_and_leaves_it():
    reached = {LIFECYCLE.initial}
    for row in LIFECYCLE.table.values():
        assert row
        reached |= set(row.values())
    assert reached == set(LIFECYCLE.table)
