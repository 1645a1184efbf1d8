"""Cut a failing run down to what it takes to fail: fewer faults, shorter ones, fewer clients.

Delta debugging (Zeller and Hildebrandt, 2002) over the faults; then each fault's duration is halved
while the run still fails, then the clients and the length of the run. Whatever is left, the run
fails in the same way: by a violation of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from blixard.base.errors import BlixardError
from blixard.simulation.planning import Plan
from blixard.simulation.report import Options, Report
from blixard.simulation.run import simulate

TRIES_MAX = 400
_SHORTEST_MS = 50
_SHORTEST_S = 5.0
_AFTER_S = 2.0


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A run with its plan: all that repeats it. ``violation`` is what it broke when kept."""

    options: Options
    plan: Plan
    violation: str = ""

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    @staticmethod
    def from_json(data: bytes) -> Case:
        """Read it. Raises BlixardError INVALID, saying what is wrong."""
        try:
            case = msgspec.json.decode(data, type=Case)
        except msgspec.MsgspecError as error:
            raise BlixardError("INVALID", f"the plan file: {error}") from error
        Plan.from_json(msgspec.json.encode(case.plan), nodes=case.options.nodes)
        return case


Runner = Callable[[Case], Report]
Said = Callable[[str], None]


def run_case(case: Case) -> Report:
    """Run a case."""
    return simulate(case.options, plan=case.plan)


def name_of(violation: str) -> str:
    """Return the name of a broken promise without time and hosts."""
    return violation.partition(" at ")[0].partition(":")[0]


class Shrinker:
    """Tries smaller cases, at most ``tries_max``; *run* is the simulator."""

    def __init__(
        self, case: Case, run: Runner = run_case, say: Said = lambda _line: None,
        tries_max: int = TRIES_MAX,
    ) -> None:  # fmt: skip
        self.case = case
        self.tries = 0
        self._run = run
        self._say = say
        self._tries_max = tries_max
        self._name = name_of(case.violation)

    def shrink(self) -> Case:
        """Return the smallest case found."""
        self._fewer_faults()
        self._shorter_faults()
        self._fewer_clients()
        self._shorter_run()
        return self.case

    def _fails(self, case: Case, what: str) -> bool:
        """Try a case and keep it if it fails in the same way."""
        if self.tries >= self._tries_max:
            return False
        self.tries += 1
        report = self._run(case)
        found = [text for text in report.violations if name_of(text) == self._name]
        if found:
            self.case = msgspec.structs.replace(case, violation=found[0].rstrip())
            self._say(f"try {self.tries}: {what}: still fails")
        return bool(found)

    def _with_plan(self, plan: Plan) -> Case:
        return msgspec.structs.replace(self.case, plan=plan)

    def _fewer_faults(self) -> None:
        whole = self.case.plan

        def fails(places: Sequence[int]) -> bool:
            case = self._with_plan(whole.only(places))
            return self._fails(case, f"{len(places)} of {len(whole.faults)} faults")

        minimise(list(range(len(whole.faults))), fails)

    def _shorter_faults(self) -> None:
        for place in range(len(self.case.plan.faults)):
            while self._halve(place):
                continue

    def _halve(self, place: int) -> bool:
        plan = self.case.plan
        fault = plan.faults[place]
        lasts_ms = fault.lasts_ms // 2
        if lasts_ms < _SHORTEST_MS:
            return False
        shorter = msgspec.structs.replace(fault, lasts_ms=lasts_ms)
        faults = (*plan.faults[:place], shorter, *plan.faults[place + 1 :])
        case = self._with_plan(Plan(faults, plan.heal_at_ms))
        return self._fails(case, f"{fault.kind} of {lasts_ms} ms")

    def _fewer_clients(self) -> None:
        clients = self.case.options.clients
        while clients > 1:
            clients //= 2
            options = msgspec.structs.replace(self.case.options, clients=clients)
            case = msgspec.structs.replace(self.case, options=options)
            if not self._fails(case, f"{clients} clients"):
                return

    def _shorter_run(self) -> None:
        """Heal soon after the last fault, and end soon after that."""
        plan = self.case.plan
        last_s = max((fault.end_ms for fault in plan.faults), default=0) / 1000
        heal_s = min(plan.heal_at_ms / 1000, last_s + _AFTER_S)
        duration_s = max(_SHORTEST_S, round(heal_s / 0.75))
        if duration_s >= self.case.options.duration_s:
            return
        options = msgspec.structs.replace(self.case.options, duration_s=float(duration_s))
        shorter = Plan(plan.faults, int(heal_s * 1000))
        case = msgspec.structs.replace(self.case, options=options, plan=shorter)
        self._fails(case, f"{duration_s:g} s")


def minimise(items: list[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return a part of *items* that still fails and of which no single one can be left out."""
    if items and fails([]):
        return []
    parts = 2
    while len(items) >= 2:
        size = -(-len(items) // parts)
        chunks = [items[i : i + size] for i in range(0, len(items), size)]
        rests = [[x for x in items if x not in chunk] for chunk in chunks]
        smaller = next((c for c in chunks if fails(c)), None)
        if smaller is not None:
            items, parts = smaller, 2
            continue
        rest = next((r for r in rests if parts > 2 and fails(r)), None)
        if rest is not None:
            items, parts = rest, max(parts - 1, 2)
        elif parts >= len(items):
            break
        else:
            parts = min(len(items), parts * 2)
    return items
