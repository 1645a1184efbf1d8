import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from blixard.base.errors import BlixardError
from blixard.consensus.proposals import Proposals


class Engine:
    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.batches: list[list[tuple[int, bytes]]] = []

    def propose_many(self, proposals: list[tuple[int, bytes]]) -> bool:
        self.batches.append(proposals)
        return self.takes


MOVED = BlixardError("NOT_LEADER")


def run(scenario: Callable[[], None]) -> None:
    async def main() -> None:
        scenario()

    asyncio.run(main())


def make(max_pending: int = 100) -> Proposals:
    return Proposals(max_pending=max_pending, max_batch=3, max_bytes=1 << 20)


def add(proposals: Proposals, count: int, deadline: float = 1.0) -> list[asyncio.Future[Any]]:
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(count)]
    for future in futures:
        proposals.add(b"x", future, deadline)
    return futures


def code(future: asyncio.Future[Any]) -> str:
    error = future.exception()
    assert isinstance(error, BlixardError)
    return error.code


def test_queue_leaves_in_bounded_batches() -> None:
    def scenario() -> None:
        proposals, engine = make(), Engine()
        futures = add(proposals, 7)
        proposals.flush(engine)
        assert [len(batch) for batch in engine.batches] == [3, 3, 1]
        for token, _ in itertools.chain(*engine.batches):
            proposals.done(token, token)
        assert len({future.result() for future in futures}) == 7

    run(scenario)


def test_batch_that_is_not_taken_fails() -> None:
    def scenario() -> None:
        proposals = make()
        futures = add(proposals, 2)
        proposals.flush(Engine(takes=False))
        assert [code(future) for future in futures] == ["OVERLOADED", "OVERLOADED"]
        assert not proposals.pending

    run(scenario)


def test_lost_leadership_is_unknown_only_for_what_was_appended() -> None:
    def scenario() -> None:
        proposals = make()
        (appended,) = add(proposals, 1)
        proposals.flush(Engine())
        (queued,) = add(proposals, 1)
        proposals.lost_leadership(MOVED)
        assert (code(appended), code(queued)) == ("OUTCOME_UNKNOWN", "NOT_LEADER")
        assert not proposals.queue

    run(scenario)


def test_deadline_is_unknown_only_for_what_was_appended() -> None:
    def scenario() -> None:
        proposals = make()
        (appended,) = add(proposals, 1)
        proposals.flush(Engine())
        (queued,) = add(proposals, 1)
        (patient,) = add(proposals, 1, deadline=9.0)
        proposals.tick(1.0)
        assert (code(appended), code(queued)) == ("OUTCOME_UNKNOWN", "NO_QUORUM")
        assert not patient.done()
        assert len(proposals.queue) == 1

    run(scenario)


def test_too_many_open_proposals_are_refused() -> None:
    def scenario() -> None:
        proposals = make(max_pending=2)
        add(proposals, 2)
        with pytest.raises(BlixardError):
            add(proposals, 1)

    run(scenario)


def test_answer_without_a_caller_is_ignored() -> None:
    make().done(99, None)


def test_bytes_that_wait_are_bounded() -> None:
    def scenario() -> None:
        proposals = Proposals(max_pending=100, max_batch=3, max_bytes=10)
        future = asyncio.get_running_loop().create_future()
        proposals.add(b"x" * 100, future, 1.0)  # one always fits
        with pytest.raises(BlixardError, match="OVERLOADED"):
            proposals.add(b"y", future, 1.0)
        proposals.flush(Engine())
        proposals.add(b"x" * 6, future, 1.0)
        with pytest.raises(BlixardError, match="OVERLOADED"):
            proposals.add(b"y" * 6, future, 1.0)
        proposals.tick(2.0)
        proposals.add(b"y" * 6, future, 3.0)

    run(scenario)
