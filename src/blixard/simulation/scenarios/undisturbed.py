"""What must not be disturbed: healthy guests and a healthy leader, whatever happens beside them."""

from __future__ import annotations

import functools

from blixard.simulation.scenarios.guests import guests, instances, is_ready, pids, settle, state
from blixard.simulation.scenarios.restarts import PLAIN
from blixard.simulation.scenarios.shell import Shell, serve
from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.world import Host

_YEAR_MS = 365 * 86_400_000
_LONG_S = 12.0  # longer than any lease, and than the wait before a node counts as lost


def _declared(stage: Stage) -> None:
    """Wait for the operator's VMs, then let nobody change what is wanted."""
    stage.until(30, lambda: state(stage).count("VM") == 3, "the VMs are declared")
    assert stage.operator is not None
    stage.operator.stopped = True
    stage.run_for(1)
    settle(stage)
    stage.run_for(4)


def _same(stage: Stage, before: dict[str, int], when: str) -> None:
    """Expect that the same processes run, and no others."""
    now = pids(stage)
    stage.expect(now == before, f"{when}: {before} were running, {now} are", "undisturbed")


def leader_changes(stage: Stage) -> None:
    """Leaders die, hand over and lose power: no healthy guest is stopped or started for it."""
    _declared(stage)
    for number in range(6):
        before = pids(stage)
        old = stage.leader()
        if number % 2:
            old.kill_daemon()
        else:
            hand_over = functools.partial(stage.raft(old).transfer_leader, 0, timeout_s=5)
            stage.do(hand_over, within_s=8, host=old)
        stage.another(old, within_s=10)
        stage.happened("leader changed")
        stage.run_for(1.5)
        stage.back(old)
        stage.run_for(_LONG_S)
        _same(stage, before, f"after leader change {number + 1}")


def no_quorum(stage: Stage) -> None:
    """Most daemons are dead: kept guests run on, fenced ones end, and nothing is started."""
    _declared(stage)
    before = {uid: pid for uid, pid in pids(stage).items() if uid not in _fenced(stage)}
    leader = stage.leader()
    for host in (leader, stage.others(leader)[0]):
        host.kill_daemon()
    stage.run_for(_LONG_S)
    _same(stage, before, "without a quorum")
    stage.expect(bool(before), "some guests are kept")
    stage.happened("no quorum")
    stage.back(*stage.world.hosts)
    stage.until(30, lambda: is_ready(stage, "single", 1), "the fenced VM runs again")
    left = {uid: pid for uid, pid in pids(stage).items() if uid in before}
    stage.expect(left == before, f"after the quorum is back: {left}, not {before}", "undisturbed")


def _fenced(stage: Stage) -> set[str]:
    return {i.metadata.uid for i in instances(stage) if i.spec.get("fenced")}


def clock_steps(stage: Stage) -> None:
    """Somebody sets the clocks, by minutes and by years: no election, and no guest notices."""
    _declared(stage)
    before, leader, term = pids(stage), stage.leader(), stage.raft(stage.leader()).term
    for milliseconds in (-300_000, 300_000, -3_600_000, _YEAR_MS, -_YEAR_MS):
        for host in (leader, stage.others(leader)[0], *stage.world.hosts):
            host.machine.clock.step_wall(milliseconds)
            stage.happened("clock set")
            stage.run_for(1.5)
            _same(stage, before, f"a clock was set by {milliseconds} ms")
        now = (stage.leader(), stage.raft(leader).term)
        stage.expect(now == (leader, term), f"a clock step of {milliseconds} ms: an election")
        stage.writes(3, within_s=5)
    stage.fault("wall_freeze", leader, lasts_s=4)
    stage.run_for(6)
    stage.expect(stage.raft(leader).is_leader, "a clock that stands still: an election")


def slow_disks(stage: Stage) -> None:
    """Every sync takes 0.2 s: writes are slow, and the leader stays the leader."""
    leader = stage.leader()
    term = stage.raft(leader).term
    stage.slow_disks(0.2)
    for _ in range(10):
        stage.writes(2, within_s=5)
        stage.happened("slow write")
        stage.run_for(2)
        now = (stage.leaders()[:1], stage.raft(leader).term)
        stage.expect(now == ([leader], term), "a slow disk: an election", "undisturbed")
    stage.slow_disks(0.0005)


def every_call_ends(stage: Stage) -> None:
    """Without a quorum every command ends in its time, and says whether it may have happened."""
    shell = Shell(stage)
    stage.writes(3, within_s=10)
    leader = stage.leader()
    for host in stage.others(leader):
        stage.fault("partition", host)
    for line in (
        ("kv", "put", "a", "1"), ("kv", "get", "a"), ("vm", "list"), ("cluster", "status"),
        ("vm", "create", "x", "--packages", "nginx"), ("vm", "scale", "web", "--replicas", "3"),
    ):  # fmt: skip
        began_ns = stage.now_ns
        ran = shell(*line, "--timeout", "4s")
        took_s = (stage.now_ns - began_ns) / 1e9
        stage.expect(took_s < 5.5, f"{line} took {took_s:.1f} s of 4", "deadline")
        stage.expect(ran.code in (7, 8), f"{line} without a quorum: {ran}")
        stage.happened("command without a quorum")


def old_lock_holder(stage: Stage) -> None:
    """A holder of a lock sleeps and another takes it: the old one's token is refused."""
    shell = Shell(stage)
    shell.good("kv", "put", "app/lock", "one", "--if-revision", "0")
    token = _revision(shell)
    stage.run_for(20)  # the holder sleeps longer than it meant to
    shell.good("kv", "put", "app/lock", "two", "--if-revision", token)
    newer = _revision(shell)
    late = shell("kv", "put", "app/lock", "one", "--if-revision", token)
    stage.expect(late.code == 5, f"the token of before is accepted: {late}", "fencing token")
    stage.happened("old token refused")
    stage.expect(int(newer) > int(token), f"tokens grow: {token}, {newer}", "fencing token")
    stage.expect(shell.good("kv", "get", "app/lock") == "two\n", "the lock is the second one's")


def _revision(shell: Shell) -> str:
    return shell.good("kv", "get", "app/lock", "-o", "path=revision").strip()


# hosts and daemons that sleep


def leader_wakes_up(stage: Stage) -> None:
    """The leader sleeps past its term and wakes up: it revokes nothing and acknowledges nothing."""
    _declared(stage)
    for how in ("daemon", "host", "daemon"):
        old = stage.leader()
        (old.pause_daemon if how == "daemon" else old.freeze)()
        stage.until(10, functools.partial(_led_by_another, stage, old), "another host leads")
        stage.run_for(_LONG_S)
        before = _elsewhere_than(stage, old)
        (old.resume_daemon if how == "daemon" else old.thaw)()
        stage.happened(f"old leader woke up ({how})")
        stage.run_for(6)
        now = _elsewhere_than(stage, old)
        stage.expect(now == before, f"it woke up: {before} ran, {now} do", "undisturbed")
        settle(stage)


def _led_by_another(stage: Stage, old: Host) -> bool:
    return any(host is not old for host in stage.leaders())


def _elsewhere_than(stage: Stage, old: Host) -> dict[str, int]:
    return {
        uid: instance.pid
        for host in stage.others(old)
        for uid, instance in host.guests.instances.items() if instance.state == "running"
    }  # fmt: skip


def fenced_in_time(stage: Stage) -> None:
    """The node of a fenced VM sleeps or is cut off at drawn moments: it ends before another starts.

    The daemon, which would have to stop it, sleeps: only the guard can.
    """
    _declared(stage)
    for number in range(5):
        home = next(host for host, plan in guests(stage, "single"))
        run = _newest_run(stage)
        stage.run_for(stage.draw.random() * 2)
        cut = stage.fault("partition", home)
        if number % 2:
            home.pause_daemon()
        moved = functools.partial(_elsewhere, stage, run, home)
        stage.until(20, moved, "it runs elsewhere")
        stage.happened("fenced VM moved")
        cut()
        home.resume_daemon()
        stage.run_for(3)
        settle(stage)


def _newest_run(stage: Stage) -> int:
    return max(plan.run for _, plan in guests(stage, "single"))


def _elsewhere(stage: Stage, run: int, home: Host) -> bool:
    return any(plan.run > run and host is not home for host, plan in guests(stage, "single"))


SCENARIOS = (
    Scenario(
        name="undisturbed/slow-disks", rows=("complaint/6",), act=slow_disks, config=PLAIN,
        incident="etcd #2929, #13587: disks slow for a while, elections without end",
        happens=("slow write",),
    ),
    Scenario(
        name="undisturbed/clock-steps", rows=("complaint/7", "SIM-47"), act=clock_steps, node=True,
        incident="patroni #3560: five minutes frozen after the clock was set back by five minutes",
        happens=("clock set", "wall_freeze"), config=PLAIN,
    ),
    Scenario(
        name="undisturbed/leader-wakes-up", rows=("complaint/8",), act=leader_wakes_up, node=True,
        incident="etcd #15247: a leader resumed after a pause revoked all leases",
        happens=("old leader woke up (daemon)", "old leader woke up (host)"), config=PLAIN,
    ),
    Scenario(
        name="undisturbed/fenced-in-time", rows=("complaint/9", "complaint/8"), act=fenced_in_time,
        incident="patroni: a pause at the wrong moment beats the watchdog's margin",
        happens=("fenced VM moved",), node=True, nodes=3, config=PLAIN,
    ),
    Scenario(
        name="undisturbed/no-quorum", rows=("complaint/10",), act=no_quorum, node=True,
        incident="patroni: an outage of the control plane took healthy databases down",
        happens=("no quorum",), config=PLAIN,
    ),
    Scenario(
        name="undisturbed/leader-changes", rows=("complaint/11",), act=leader_changes, node=True,
        incident="nomad #3840, #2453: allocations were replaced after a leader change",
        happens=("leader changed",), config=PLAIN,
    ),
    Scenario(
        name="undisturbed/every-call-ends", rows=("complaint/17",), act=every_call_ends, node=True,
        incident="raftify: calls without a deadline hang for ever once the quorum is gone",
        happens=("command without a quorum",), prepare=serve, config=PLAIN,
    ),
    Scenario(
        name="undisturbed/old-lock-holder", rows=("complaint/18",), act=old_lock_holder, node=True,
        incident="Jepsen, etcd 3.4.3: locks are not mutual exclusion without fencing tokens",
        happens=("old token refused",), prepare=serve, config=PLAIN,
    ),
)  # fmt: skip
