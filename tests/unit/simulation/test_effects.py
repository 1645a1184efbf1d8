"""Part (b) of the oracle of double runs: which accepted reports it objects to."""

import pytest

from blixard.base.ids import ulid
from blixard.cluster.commands import encode_command
from blixard.cluster.resources import OpResult, Outcome, PatchStatus, Transaction
from blixard.ports.hypervisor import LaunchPlan
from blixard.simulation.effects import Effects


def plan(run):
    return LaunchPlan(
        instance_uid="i", name="web-1", namespace="default", node_epoch=1, run=run, runner="r",
        memory_mib=64, vcpus=1,
    )  # fmt: skip


def report(run, number=1):
    op = PatchStatus(
        kind="Instance", namespace="default", name="web-1", uid="i", status={"phase": "Running"},
        node_uid="u1", node_epoch=1, run=run,
    )  # fmt: skip
    transaction = Transaction(
        request_id=ulid(1_700_000_000_000, number),
        time_ms=1_700_000_000_000,
        actor="test",
        ops=(op,),
        partial=True,
    )
    return encode_command(transaction)


TAKEN = Outcome(revision=1, results=(OpResult(revision=1),))


@pytest.fixture
def effects():
    made = Effects(lambda name, text: made.said.append(f"{name}: {text}"))
    made.said = []
    return made


def test_a_report_of_an_older_run_is_objected_to_once(effects):
    effects.started(plan(2))
    effects.applied(5, report(1), TAKEN)
    effects.applied(5, report(1), TAKEN)
    assert len(effects.said) == 1
    assert "double run: entry 5 accepts a report of web-1 of run 1" in effects.said[0]


@pytest.mark.parametrize("run", [2, 3])
def test_the_newest_run_and_the_next_are_welcome(effects, run):
    effects.started(plan(2))
    effects.applied(5, report(run), TAKEN)
    assert (effects.said, effects.accepted) == ([], 1)


def test_what_was_refused_or_repeated_is_no_effect(effects):
    effects.applied(4, report(1), TAKEN)
    effects.started(plan(2))
    effects.applied(5, report(1), TAKEN)
    effects.applied(6, report(1, 2), Outcome(revision=1, results=(OpResult(code="FENCED"),)))
    effects.applied(7, report(1, 3), Outcome(revision=1, code="BAD_REQUEST"))
    effects.applied(8, b"garbage", TAKEN)
    assert (effects.said, effects.accepted) == ([], 1)
