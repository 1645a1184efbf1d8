"""What the clients were told, against what was applied."""

import pytest

from blixard.simulation.contention import REQUESTS_PER_KEY, SLOTS, History, check_final
from blixard.simulation.linearizability import Verdict


class Run:
    """A history with a clock that moves on by itself, and what it objected to."""

    def __init__(self):
        self.now = 0
        self.failures = []
        self.index = 0
        self.history = History(lambda *failure: self.failures.append(failure), self.tick)

    def tick(self):
        self.now += 10
        return self.now

    def begin(self, kind, *, expected="", name=""):
        name = name or f"r{self.now}"
        return self.history.begin(name, 1, kind, 0, expected)

    def apply(self, request, *, changed=True):
        self.index += 1
        text = "" if request.kind == "delete" else request.text
        self.history.applied(request.id, self.index, key=request.key, text=text, changed=changed)

    def write(self):
        request = self.begin("write")
        self.apply(request)
        self.history.answered(request, True)
        return request

    def read(self, result):
        self.history.answered(self.begin("read"), result)

    @property
    def names(self):
        return [name for name, _ in self.failures]


@pytest.fixture
def run():
    return Run()


def test_reads_of_the_latest_write_are_fine(run):
    run.read("")
    run.read(run.write().text)
    run.history.finish()
    assert run.failures == []
    assert run.history.checked == 3


def test_a_stale_answer_to_a_linearizable_read(run):
    first, _ = run.write(), run.write()
    run.read(first.text)
    run.history.finish()
    assert run.names == ["linearizability"]


def test_a_lost_request_that_was_applied_has_happened(run):
    lost = run.begin("write")
    run.history.lose(lost)
    run.apply(lost)
    run.read("")
    run.history.finish()
    assert run.names == ["linearizability"]


def test_a_lost_request_that_was_never_applied_has_not_happened(run):
    lost = run.begin("write")
    run.history.lose(lost)
    run.read(lost.text)
    run.history.finish()
    assert run.names == ["linearizability"]


def test_requests_lost_by_the_dozen_do_not_blur_the_verdict(run):
    for number in range(60):
        run.history.lose(run.begin("write", name=f"lost-{number}"))
        run.read(run.write().text)
    run.history.finish()
    assert run.failures == []
    assert run.history.steps < 1_000


def test_a_history_without_a_verdict_is_a_violation(run, monkeypatch):
    verdict = Verdict("undecided", steps=7)
    monkeypatch.setattr("blixard.simulation.contention.check", lambda _operations: verdict)
    run.write()
    run.history.finish()
    assert run.failures == [("undecided", "k0g0: no verdict after 7 steps")]


def test_applied_while_its_client_still_waits(run):
    waiting = run.begin("write")
    run.apply(waiting)
    run.read(waiting.text)
    run.history.finish()
    assert run.failures == []


def test_a_request_too_old_to_be_followed_may_have_happened(run, monkeypatch):
    monkeypatch.setattr("blixard.simulation.contention.MAX_REMEMBERED", 1)
    lost = run.begin("write")
    run.history.lose(lost)
    run.write()
    run.apply(lost)
    run.read(lost.text)
    run.history.finish()
    assert run.failures == []


def test_refused_and_applied_in_either_order(run):
    before, after = run.begin("write", name="a"), run.begin("write", name="b")
    run.apply(before)
    run.history.refuse(before)
    run.history.refuse(after)
    run.apply(after)
    assert run.names == ["refused", "refused"]


def test_acknowledged_and_never_applied(run):
    run.history.answered(run.begin("write"), True)
    assert run.names == ["acknowledgement"]


def test_a_stale_read_is_of_its_index(run):
    first, second = run.write(), run.write()
    run.history.stale_read(1, "n", first.key, 0, "")
    run.history.stale_read(1, "n", first.key, 1, first.text)
    run.history.stale_read(1, "n", first.key, 2, second.text)
    assert run.failures == []
    run.history.stale_read(1, "n", first.key, 2, first.text)
    assert run.names == ["stale read"]


def test_a_client_never_goes_back_on_one_incarnation(run):
    first, second = run.write(), run.write()
    run.history.stale_read(1, "n.1", first.key, 2, second.text)
    run.history.stale_read(2, "n.1", first.key, 1, first.text)
    run.history.stale_read(1, "n.2", first.key, 1, first.text)
    assert run.failures == []
    run.history.stale_read(1, "n.1", first.key, 1, first.text)
    assert run.names == ["stale read"]


def test_a_repetition_changes_nothing(run):
    first, second = run.write(), run.write()
    run.apply(first)
    run.history.stale_read(1, "n", first.key, 3, second.text)
    assert run.failures == []


def test_keys_are_judged_and_forgotten_while_the_run_goes_on(run):
    for _ in range(3 * REQUESTS_PER_KEY):
        run.write()
    assert len(run.history.keys) <= SLOTS
    assert run.history.checked_keys == 2
    assert run.failures == []


def test_what_is_left_at_the_end(run):
    request = run.write()
    check_final(run.history, {request.key: request.text}, run.history._fail, "here")
    assert run.failures == []
    check_final(run.history, {}, run.history._fail, "here")
    assert run.names == ["acknowledged writes"]
