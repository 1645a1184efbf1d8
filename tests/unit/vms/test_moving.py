"""What a worker does next for an instance that leaves or comes while it runs."""

from __future__ import annotations

import msgspec
import pytest

from blixard.ports.hypervisor import HypervisorInstance, LaunchPlan
from blixard.vms.moves import Move
from blixard.vms.moving import Moving, moving_step
from blixard.vms.reconcile import Assignment
from blixard.vms.spec import InstanceSpec

MOVE = Move(uid="m", name="m", target="t", target_name="t", target_epoch=1, run=2, step="copy")
HERE = InstanceSpec(vm="web", ordinal=1, node="s", run=1, node_epoch=1)
LEAVES = msgspec.structs.replace(HERE, migration=MOVE)
CAME = msgspec.structs.replace(HERE, node="t", run=2)


def assigned(spec, *, incoming=False):
    return Assignment(uid="i", namespace="default", name="web-1", spec=spec, incoming=incoming)


COMES = assigned(LEAVES, incoming=True)


def process(state="running", *, run=1, ran=True, incoming=False):
    plan = LaunchPlan(
        instance_uid="i", name="web-1", namespace="default", node_epoch=1, run=run, runner="r",
        memory_mib=64, vcpus=1, incoming=incoming,
    )  # fmt: skip
    return HypervisorInstance(instance_uid="i", plan=plan, state=state, pid=1, ran=ran)


WAITS = process("paused", run=2, ran=False, incoming=True)
STILL = process("paused")
TRIED = {"tried": "m"}
FAILED = {"tried": "m", "failure": "no"}
SENDING = {"tried": "m", "sending": "m"}


def step(assignment, found, *, built=True, **known):
    next_step = moving_step(assignment, found, Moving(**known), built=built, now_s=10.0)
    return next_step.kind if next_step is not None else None


@pytest.mark.parametrize(
    ("assignment", "found", "known", "expected"),
    [
        # an ordinary life
        (assigned(HERE), process(), {}, None),
        (assigned(HERE), None, {}, None),
        (None, process(), {}, None),
        (assigned(HERE), process("paused", ran=False), {}, None),
        # the source
        (assigned(LEAVES), process(), {}, "send"),
        (assigned(LEAVES), process(), SENDING, None),
        (assigned(LEAVES), STILL, SENDING, "wait"),
        (assigned(HERE), process(), SENDING, "abandon"),
        (assigned(HERE), STILL, {**SENDING, "asking": True}, "wait"),
        (None, STILL, {**SENDING, "asking": True}, "wait"),
        (None, STILL, {**SENDING, "switched": True}, "wait"),
        (None, STILL, {**SENDING, "abandoned": True}, "wait"),
        (assigned(LEAVES), process(), FAILED, "tell"),
        (assigned(LEAVES), process(), {**FAILED, "next_s": 11.0}, None),
        (assigned(LEAVES), STILL, FAILED, "tell"),
        (assigned(LEAVES), STILL, {}, "doubt"),
        (assigned(HERE), STILL, FAILED, "go on"),
        (assigned(HERE), STILL, {**FAILED, "next_s": 11.0}, "wait"),
        (None, STILL, TRIED, "drop"),
        (assigned(msgspec.structs.replace(HERE, run=2)), STILL, FAILED, "drop"),
        (assigned(msgspec.structs.replace(HERE, desired="Stopped")), STILL, FAILED, "drop"),
        # the target, before the switch
        (COMES, None, {}, "await"),
        (COMES, WAITS, TRIED, "tell"),
        (COMES, WAITS, {**TRIED, "prepared": "m"}, "wait"),
        (COMES, WAITS, {}, "doubt"),
        (COMES, WAITS, FAILED, "drop"),
        (COMES, None, FAILED, "tell"),
        (COMES, None, TRIED, "doubt"),
        (COMES, process("exited", run=2, incoming=True), TRIED, "forget"),
        (COMES, process(), {}, "stop"),
        (COMES, STILL, {}, "drop"),
        (None, WAITS, TRIED, "drop"),
        # the target, after it
        (assigned(CAME), WAITS, {**TRIED, "receiving": "m"}, "wait"),
        (assigned(CAME), WAITS, {**TRIED, "received": "m"}, "arrive"),
        (assigned(CAME), WAITS, {**TRIED, "received": "m", "next_s": 11.0}, "wait"),
        (assigned(CAME), WAITS, {}, "drop"),
        (assigned(CAME), process(run=2, incoming=True), TRIED, None),
    ],
)  # fmt: skip
def test_next_step(assignment, found, known, expected):
    assert step(assignment, found, **known) == expected


def test_without_an_image_the_target_builds_first():
    assert step(COMES, None, built=False) == "build"


def test_nothing_is_sent_before_the_target_is_prepared():
    early = msgspec.structs.replace(MOVE, step="prepare")
    assert step(assigned(msgspec.structs.replace(HERE, migration=early)), process()) is None
