"""A snapshot is compared with what another node had at its index."""

import msgspec
import pytest

from blixard.simulation.contents import EVERY, Contents
from blixard.simulation.register import Command, RegisterMachine


class Run:
    """Machines that apply the same entries."""

    def __init__(self):
        self.failures = []
        self.contents = Contents(lambda *failure: self.failures.append(failure))
        self.machines = {1: RegisterMachine(), 2: RegisterMachine()}

    def apply(self, host, index):
        machine = self.machines[host]
        machine.apply(index, 1, msgspec.msgpack.encode(Command(f"r{index}", "write", "k", "v")))
        self.contents.applied(host, index, machine)

    def save(self, host, index, change=lambda _saved: None):
        machine = self.machines[host]
        saved = machine.freeze()
        change(saved)
        self.contents.saved(host, index, machine, machine.encode(saved))


@pytest.fixture
def run():
    return Run()


@pytest.mark.parametrize("late", [False, True])
def test_the_same_state(run, late):
    run.apply(1, EVERY)
    if not late:
        run.apply(2, EVERY)
    run.save(1, EVERY)
    if late:
        run.apply(2, EVERY)
    assert run.failures == []
    assert run.contents.compared == 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("lost", ["values", "requests"])
def test_a_snapshot_that_lost_something_under_the_right_hash(run, late, lost):
    run.apply(1, EVERY)
    if not late:
        run.apply(2, EVERY)
    run.save(1, EVERY, lambda saved: getattr(saved, lost).clear())
    if late:
        run.apply(2, EVERY)
    assert [name for name, _ in run.failures] == ["snapshot"]


def test_its_own_state_proves_nothing(run):
    run.apply(1, EVERY)
    run.save(1, EVERY)
    assert run.contents.compared == 0
