"""The state machine against a dictionary, its own replays, duplicates and random bytes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from blixard.cluster.machine import ClusterMachine
from blixard.cluster.resources import Delete, PatchStatus, Put
from tests.unit.cluster.logs import TABLE, Log, box, command

NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.dictionaries(st.sampled_from("xy"), st.integers(0, 2), max_size=2)
STEPS = st.one_of(
    st.tuples(st.just("put"), NAMES, VALUES),
    st.tuples(st.just("status"), NAMES, VALUES),
    st.tuples(st.just("delete"), NAMES, st.just({})),
)
TRANSACTIONS = st.lists(st.lists(STEPS, min_size=1, max_size=4), max_size=12)


def operation(step, uid):
    action, name, value = step
    if action == "put":
        return box(name, uid, spec=value)
    if action == "status":
        return PatchStatus(kind="Box", namespace="default", name=name, uid="", status=value)
    return Delete(kind="Box", namespace="default", name=name)


def modelled(model, steps):
    """Return what a transaction leaves of ``{name: (spec, status)}``."""
    after = dict(model)
    for action, name, value in steps:
        if action == "put":
            after[name] = (value, after[name][1] if name in after else {})
        elif name not in after:
            return model
        elif action == "status":
            after[name] = (after[name][0], after[name][1] | value)
        else:
            del after[name]
    return after


def written(transactions):
    log = Log()
    for number, steps in enumerate(transactions):
        log.do(*(operation(step, f"u{number}.{i}") for i, step in enumerate(steps)))
    return log


def replayed(machine, entries, first):
    hashes = []
    for index, data in enumerate(entries, first):
        machine.apply(index, 1, data)
        hashes.append(machine.state_hash())
    return hashes


@given(TRANSACTIONS)
@settings(deadline=None)
def test_store_agrees_with_a_dictionary(transactions):
    model = {}
    for steps in transactions:
        model = modelled(model, steps)
    boxes = written(transactions).machine.store.list("Box")
    assert {r.metadata.name: (r.spec, r.status) for r in boxes} == model


@given(TRANSACTIONS, st.data())
@settings(deadline=None)
def test_snapshot_and_rest_equal_full_replay(transactions, data):
    log = written(transactions)
    cut = data.draw(st.integers(0, len(log.entries)))
    early, late = ClusterMachine(TABLE), ClusterMachine(TABLE)
    replayed(early, log.entries[:cut], 1)
    late.restore(early.encode(early.freeze()))
    replayed(late, log.entries[cut:], cut + 1)
    assert late.encode(late.freeze()) == log.machine.encode(log.machine.freeze())


@given(TRANSACTIONS)
@settings(deadline=None)
def test_replay_gives_the_same_hashes(transactions):
    log = written(transactions)
    runs = [replayed(ClusterMachine(TABLE), log.entries, 1) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0][-1] == log.machine.state_hash()


@given(TRANSACTIONS, st.data())
@settings(deadline=None)
def test_duplicates_anywhere_change_nothing(transactions, data):
    log = written(transactions)
    machine = ClusterMachine(TABLE)
    index = 0
    for number, entry in enumerate(log.entries):
        index += 1
        machine.apply(index, 1, entry)
        again = data.draw(st.integers(0, number))
        before = machine.store
        index += 1
        machine.apply(index, 1, log.entries[again])
        assert machine.store is before
    after = [(r.key, r.spec, r.status) for r in machine.store.everything()]
    assert after == [(r.key, r.spec, r.status) for r in log.machine.store.everything()]


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_answered(data):
    log = Log()
    good = command(
        50, Put(kind="Instance", namespace="default", name="a", uid="u", spec={"run": 1})
    )
    place = data.draw(st.integers(0, len(good)))
    entry = (
        good[:place]
        + data.draw(st.binary(max_size=8))
        + good[place + data.draw(st.integers(0, 8)) :]
    )
    before = log.machine.state_hash()
    log.feed(data.draw(st.sampled_from([entry, entry[1:], b"\x01" + entry])))
    assert log.machine.state_hash() != before
