import asyncio
from collections.abc import Callable

import pytest

from blixard.base.errors import BlixardError
from blixard.consensus.reads import Reads, Waiter


class Engine:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.able = True

    def read_index(self, token: int) -> bool:
        if self.able:
            self.tokens.append(token)
        return self.able


def make(max_waiters: int = 10) -> Reads:
    return Reads(max_waiters=max_waiters, max_rounds=2, retry_s=1.0)


def run(scenario: Callable[[], None]) -> None:
    async def main() -> None:
        scenario()

    asyncio.run(main())


def waiter(deadline: float = 10.0, *, leader_only: bool = False) -> Waiter:
    return Waiter(asyncio.get_running_loop().create_future(), deadline, leader_only)


def test_callers_share_one_round() -> None:
    def scenario() -> None:
        reads, engine = make(), Engine()
        callers = [waiter(), waiter()]
        for caller in callers:
            reads.add(caller)
        reads.issue(engine, 0.0)
        reads.confirm(engine.tokens[0], 7)
        reads.resolve(6)
        assert not callers[0].future.done()
        reads.resolve(8)
        assert [c.future.result() for c in callers] == [8, 8]

    run(scenario)


def test_late_caller_does_not_join_an_open_round() -> None:
    def scenario() -> None:
        reads, engine = make(), Engine()
        reads.add(waiter())
        reads.issue(engine, 0.0)
        late = waiter()
        reads.add(late)
        reads.confirm(engine.tokens[0], 1)
        reads.resolve(9)
        assert not late.future.done()

    run(scenario)


def test_unanswered_round_is_asked_again_with_a_new_token() -> None:
    def scenario() -> None:
        reads, engine = make(), Engine()
        caller = waiter()
        reads.add(caller)
        reads.issue(engine, 0.0)
        reads.issue(engine, 0.9)
        assert len(engine.tokens) == 1
        reads.issue(engine, 1.5)
        assert len(set(engine.tokens)) == 2
        reads.confirm(engine.tokens[1], 1)
        reads.resolve(9)
        assert caller.future.result() == 9

    run(scenario)


def test_answers_slower_than_the_patience_end_a_round() -> None:
    """Every answer comes two askings later: nobody would ever be answered if each voided the last.

    The slots are all used again afterwards, so that late answers leave nothing behind.
    """

    def scenario() -> None:
        reads, engine = make(), Engine()
        for start in (0.0, 100.0, 200.0):
            first, second = waiter(start + 90), waiter(start + 90)
            begun = len(engine.tokens)
            reads.add(first)
            reads.issue(engine, start)
            reads.add(second)
            reads.issue(engine, start + 0.1)
            for step in range(1, 6):
                reads.tick(start + step)
                reads.issue(engine, start + step + 0.2)
            reads.confirm(engine.tokens[begun + 4], 5)
            reads.confirm(engine.tokens[begun + 5], 6)
            reads.resolve(9)
            assert first.future.result() == second.future.result() == 9
            reads.confirm(engine.tokens[-1], 7)
            assert (reads.rounds, reads.waiting, reads.confirmed) == ([], [], [])

    run(scenario)


def test_round_without_callers_is_dropped() -> None:
    def scenario() -> None:
        reads, engine = make(), Engine()
        caller = waiter(1.0)
        reads.add(caller)
        reads.issue(engine, 0.0)
        reads.tick(1.0)
        assert reads.rounds == []
        reads.issue(engine, 5.0)
        assert len(engine.tokens) == 1
        assert caller.future.exception() is not None

    run(scenario)


def test_new_term_voids_open_rounds() -> None:
    def scenario() -> None:
        reads, engine = make(), Engine()
        caller = waiter()
        reads.add(caller)
        reads.issue(engine, 0.0)
        reads.restart()
        reads.confirm(engine.tokens[0], 1)
        reads.resolve(9)
        assert not caller.future.done()
        assert reads.waiting == [caller]

    run(scenario)


def test_deadline_gives_no_quorum() -> None:
    def scenario() -> None:
        reads, engine = make(), Engine()
        engine.able = False
        caller = waiter(1.0)
        reads.add(caller)
        reads.issue(engine, 0.0)
        reads.tick(1.0)
        error = caller.future.exception()
        assert isinstance(error, BlixardError)
        assert error.code == "NO_QUORUM"

    run(scenario)


def test_too_many_callers_are_refused_until_some_are_answered() -> None:
    def scenario() -> None:
        reads, engine = make(max_waiters=1), Engine()
        first = waiter()
        reads.add(first)
        with pytest.raises(BlixardError):
            reads.add(waiter())
        reads.issue(engine, 0.0)
        reads.confirm(engine.tokens[0], 1)
        reads.resolve(1)
        reads.add(waiter())

    run(scenario)


def test_lost_leadership_fails_only_the_leaders_rounds() -> None:
    def scenario() -> None:
        reads = make()
        mine, anyone = waiter(leader_only=True), waiter()
        reads.add(mine)
        reads.add(anyone)
        reads.fail(BlixardError("NOT_LEADER"), leader_only=True)
        assert mine.future.exception() is not None
        assert not anyone.future.done()

    run(scenario)
