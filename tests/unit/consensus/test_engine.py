import threading
from typing import Any

import pytest

from blixard._raft import RaftPanicError, RawRaft, RecoveryError


def make(**changes: Any) -> RawRaft:
    settings: dict[str, Any] = {
        "id": 1,
        "seed": 1,
        "incarnation": 1,
        "election_tick": 10,
        "heartbeat_tick": 2,
        "max_size_per_msg": 1 << 16,
        "max_inflight": 8,
        "max_uncommitted": 1 << 20,
        "max_committed": 1 << 20,
        "snapshot_index": 1,
        "snapshot_term": 1,
        "conf": ([1], [], [], [], False),
        "records": [],
    }
    return RawRaft(**{**settings, **changes})


def test_panic_poisons_the_engine_for_good() -> None:
    engine = make()
    with pytest.raises(RaftPanicError, match="out of range"):
        engine.applied(10**6)
    for call in (engine.campaign, engine.ready, engine.state, engine.peers):
        with pytest.raises(RaftPanicError, match="out of range"):
            call()


def test_engine_is_dropped_by_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", complaints.append)
    engines = [make()]
    engines[0].campaign()
    collector = threading.Thread(target=engines.clear)
    collector.start()
    collector.join(60)
    assert engines == []
    assert complaints == []


def test_sole_voter_commits_what_is_durable() -> None:
    engine = make()
    engine.campaign()
    assert engine.propose_many([(5, b"a"), (6, b"b")])
    first = engine.ready()
    assert first is not None
    assert first[7] == []
    engine.persisted(first[0])
    second = engine.ready()
    assert second is not None
    assert [(entry[3], entry[4]) for entry in second[7]] == [(0, b""), (5, b"a"), (6, b"b")]


def test_damaged_record_is_numbered() -> None:
    with pytest.raises(RecoveryError) as caught:
        make(records=[b"", b"\x01short"])
    assert caught.value.args[0] == 1


def test_same_seed_draws_the_same_time_outs() -> None:
    def life(seed: int) -> list[int]:
        engine = make(seed=seed, conf=([1, 2, 3], [], [], [], False))
        campaigns = []
        for tick in range(300):
            engine.turn([], 1, False)
            while (ready := engine.ready()) is not None:
                engine.persisted(ready[0])
                campaigns.append(tick)
        return campaigns

    assert life(1) == life(1)
    assert life(1) != life(2)


def test_unreadable_frame_is_refused() -> None:
    engine = make()
    engine.turn([b"\xff\xff\xff\xffxx", b"zz"], 0, False)
    assert engine.state()[7] == 2


def test_a_turn_tells_only_what_changed() -> None:
    engine = make()
    first, nothing = engine.turn([], 0, True)
    assert first == ("follower", 1, 0, 1, 1, False)
    assert nothing is None
    assert engine.turn([], 0, True) == (None, None)
    engine.campaign()
    news, ready = engine.turn([], 0, False)
    assert news is not None
    assert (news[0], news[4], ready) == ("leader", 2, None)
    again, taken = engine.turn([], 0, True)
    assert again is None
    assert taken is not None
