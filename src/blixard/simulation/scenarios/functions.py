"""Functions: a cold start, a thousand calls at once, and calls while hosts and guests fail."""

from __future__ import annotations

from typing import NamedTuple

from blixard.simulation.scenarios.stage import Scenario, Stage
from blixard.simulation.serverless import NEAR, Callers, Invoked, serve_functions, set_boot_time
from blixard.simulation.world import Host

_COLD_MAX_S = 0.010
_BOOT_S = 0.005
_STARTS = 5
_CALLS = 1_000
_WORK_S = 0.2
_INSTANCES = 150  # of a thousand calls: each instance serves some of them, one after the other
_FAULTY_S = 40.0
_BUSY_MIB = 2_048  # sixteen instances of 128 MiB on each node
_DEADLINE_S = 8.0
_TIMEOUT_S = 1.0
_LIMIT = 12
HTTP_EVENT = {
    "version": "2.0", "routeKey": "GET /orders", "rawPath": "/orders", "headers": {"host": "x"},
    "requestContext": {"http": {"method": "GET", "path": "/orders"}}, "isBase64Encoded": False,
}  # fmt: skip
# What a caller may be told when nodes fail; anything else is a bug, and so is silence.
_HONEST = {
    "", "FUNCTION_TIMEOUT", "FUNCTION_FAILED", "FUNCTION_THROTTLED", "FUNCTION_NOT_READY",
    "OUTCOME_UNKNOWN", "UNREACHABLE", "NO_QUORUM", "NOT_FOUND",
}  # fmt: skip


class Spell(NamedTuple):
    """A time in which a node cannot answer."""

    node: str
    began_ns: int
    ended_ns: int

    def hits(self, call: Invoked) -> bool:
        """Tell whether it may excuse that a call had no answer."""
        return (
            self.node == call.node
            and self.began_ns <= call.ended_ns
            and self.ended_ns >= call.sent_ns
        )


def _quiet(stage: Stage) -> Callers:
    """Let nobody but the callers want anything."""
    assert stage.operator is not None
    stage.operator.stopped = True
    return Callers(stage)


def cold_start(stage: Stage) -> None:
    """Guests boot in 5 ms: an HTTP event is answered in less than 10, with no instance before."""
    callers = _quiet(stage)
    stage.world.network.faults = NEAR
    set_boot_time(stage, _BOOT_S)
    for number in range(_STARTS):
        name = f"test-func-{number}"
        callers.deploy(name)
        stage.expect(not _instances(stage, name), f"{name} has an instance before any call")
        node = stage.draw.choice(stage.world.hosts)
        call = callers.send(name, HTTP_EVENT, node=node)
        callers.idle(5)
        shown = call.headers.get("blixard-function-phases-ms", call.code)
        cold = call.headers.get("blixard-function-cold") == "true"
        stage.expect(call.ok and cold, f"the first call of {name} is cold: {call}")
        took = f"{call.latency_s * 1000:.3f} ms: {shown}"
        stage.expect(call.latency_s < _COLD_MAX_S, f"{name} was cold for {took}", "cold start")
        stage.happened("cold start")


def _instances(stage: Stage, name: str) -> list[str]:
    plans = [plan for host in stage.world.hosts if host.up for plan in host.guests.running()]
    return [plan.name for plan in plans if plan.name.rpartition("-")[0] == name]


def thousand_at_once(stage: Stage) -> None:
    """A thousand calls arrive at one instant, at all nodes: each brings its own result."""
    callers = _quiet(stage)
    callers.deploy("order-processor", handler="main.sleep", maxInstances=_INSTANCES)
    stage.oracles.calls.limits["order-processor"] = _INSTANCES
    for number in range(_CALLS):
        node = stage.world.hosts[number % len(stage.world.hosts)]
        callers.send("order-processor", {"order": number, "seconds": _WORK_S}, node=node)
    callers.idle(30)
    good = sum(call.ok for call in callers.calls)
    stage.expect(good == _CALLS, f"{good} of {_CALLS} calls: {callers.codes()}", "thousand")
    stage.happened("thousand calls")
    most = stage.oracles.calls.most["order-processor"]
    stage.expect(most > _INSTANCES // 2, f"at most {most} calls ran at a time", "scaling")


def limits(stage: Stage) -> None:
    """More calls than a function may serve at a time: they wait, in bounds, or are told so."""
    callers = _quiet(stage)
    set_boot_time(stage, 0.05)
    callers.deploy("slow", handler="main.sleep", maxInstances=_LIMIT, timeout="30s")
    stage.oracles.calls.limits["slow"] = _LIMIT
    for number in range(30 * _LIMIT):
        node = stage.draw.choice(stage.world.hosts)
        event = {"seconds": 0.5, "n": number}
        callers.send("slow", event, node=node, deadline_s=stage.draw.uniform(2, 14))
    callers.idle(40)
    codes = callers.codes()
    honest = {"", "FUNCTION_THROTTLED", "FUNCTION_TIMEOUT"}
    stage.expect(set(codes) <= honest, f"{codes}", "honest answers")
    stage.expect(codes.get("", 0) >= 10 * _LIMIT, f"{codes}", "limits")
    stage.expect(bool(codes.get("FUNCTION_THROTTLED")), f"nobody was refused: {codes}", "limits")
    stage.happened("calls refused")


def under_faults(stage: Stage) -> None:
    """Hosts lose power, daemons die, guests crash and hang, ways are cut, while all are called."""
    callers = _quiet(stage)
    set_boot_time(stage, 0.1)
    callers.deploy("echo", maxInstances=60, idleTimeout="2s")
    callers.deploy("sleeps", handler="main.sleep", timeout=_TIMEOUT_S, maxInstances=_LIMIT)
    callers.deploy("breaks", handler="main.crash")
    end_ns = stage.now_ns + int(_FAULTY_S * 1e9)
    spells: list[Spell] = []
    while stage.now_ns < end_ns:
        _disturb(stage, spells)
        for _ in range(25):
            for _ in range(stage.draw.randint(1, 6)):
                _call(stage, callers)
            stage.run_for(stage.draw.uniform(0.005, 0.2))
    callers.idle(_DEADLINE_S + 2)
    _judge(stage, callers, spells)


def _call(stage: Stage, callers: Callers) -> None:
    number = len(callers.calls)
    name = stage.draw.choice(("echo", "echo", "echo", "sleeps", "sleeps", "breaks"))
    event = {"n": number, "seconds": stage.draw.choice((0.02, 0.2, 3.0))}
    node = stage.draw.choice(stage.world.hosts)
    callers.send(name, event, node=node, deadline_s=stage.draw.choice((2.0, _DEADLINE_S)))


def _disturb(stage: Stage, spells: list[Spell]) -> None:
    """Bring back what is gone, or begin one more fault; note who cannot answer meanwhile."""
    up = [host for host in stage.world.hosts if host.daemon is not None]
    down = stage.others(*up)
    if down:
        stage.back(*down)
        return
    host = stage.draw.choice(up)
    kind = stage.draw.choice(("crash", "kill", "guests", "hang", "partition", "freeze"))
    stage.happened(f"function fault {kind}")
    lasts_s = stage.draw.uniform(0.3, 5)
    if kind not in ("guests", "hang"):
        spells.append(Spell(host.uid, stage.now_ns, stage.now_ns + int(lasts_s * 1e9)))
    match kind:
        case "crash":
            stage.crash(host)
        case "kill":
            host.kill_daemon()
            stage.back(host)
        case "guests":
            _crash_guests(stage, host)
        case "hang":
            _hang_guests(stage, host)
        case "partition":
            stage.fault("partition", host, lasts_s=lasts_s)
        case "freeze":
            stage.fault("freeze", host, lasts_s=lasts_s)


def _function_uids(host: Host) -> list[str]:
    return [p.instance_uid for p in host.guests.running() if p.purpose == "function"]


def _crash_guests(stage: Stage, host: Host) -> None:
    for uid in _function_uids(host):
        if stage.draw.random() < 0.5:
            host.guests.end(uid, code=1)


def _hang_guests(stage: Stage, host: Host) -> None:
    uids = [uid for uid in _function_uids(host) if stage.draw.random() < 0.3]
    host.guests.ailing = True
    host.guests.hung.extend(uids)


def _judge(stage: Stage, callers: Callers, spells: list[Spell]) -> None:
    codes = callers.codes()
    stage.expect(set(codes) <= _HONEST | {"HANGS"}, f"{codes}", "honest answers")
    for call in callers.calls:
        answers = call.code != "HANGS" or any(spell.hits(call) for spell in spells)
        stage.expect(answers, f"{call.request_id} at {call.node} had no answer", "deadline")
    good = [call for call in callers.calls if call.ok and call.function == "echo"]
    stage.expect(len(good) > 50, f"{codes}", "calls are answered")
    for code in ("", "FUNCTION_TIMEOUT", "OUTCOME_UNKNOWN"):
        if codes.get(code):
            stage.happened(f"call ends {code or 'well'}")


SCENARIOS = (
    Scenario(
        name="functions/cold-start", rows=("SIM-53", "SIM-55"),
        incident="a first request of an idle service that waited for seconds",
        act=cold_start, node=True, prepare=serve_functions, clients=1,
        happens=("cold start",), ends="healed",
    ),
    Scenario(
        name="functions/thousand-at-once", rows=("SIM-54", "SIM-55"),
        incident="bursts that were answered with errors while new instances came up",
        act=thousand_at_once, node=True, prepare=serve_functions, clients=1,
        happens=("thousand calls",), ends="healed",
    ),
    Scenario(
        name="functions/limits", rows=("SIM-54",),
        incident="a limit of concurrency that a burst went through",
        act=limits, node=True, prepare=serve_functions, clients=1,
        happens=("calls refused",), ends="healed",
    ),
    Scenario(
        name="functions/under-faults", rows=("SIM-54",),
        incident="a result that went to another caller; an order that was carried out twice",
        act=under_faults, node=True,
        prepare=lambda stage: serve_functions(stage, _BUSY_MIB), clients=1,
        happens=("call ends well", "call ends FUNCTION_TIMEOUT", "call ends OUTCOME_UNKNOWN"),
    ),
)  # fmt: skip
