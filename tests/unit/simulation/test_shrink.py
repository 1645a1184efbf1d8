"""A failing run is cut down to what it takes to fail."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blixard.base.errors import BlixardError
from blixard.simulation.planning import Fault, Plan
from blixard.simulation.report import Options, Report
from blixard.simulation.shrink import Case, Shrinker, minimise, name_of


@given(st.sets(st.integers(0, 19), min_size=0, max_size=5))
def test_exactly_what_is_needed_is_left(needed):
    asked = []

    def fails(items):
        asked.append(items)
        return needed <= set(items)

    assert set(minimise(list(range(20)), fails)) == needed
    assert len(asked) < 400


def report(options: Options, *violations: str) -> Report:
    fields = dict.fromkeys(Report.__struct_fields__, 0)
    named = {"seed": options.seed, "ok": not violations, "violations": violations}
    return Report(**{**fields, **named})


def needs_the_crash(case: Case) -> Report:
    """Fails when host 2 crashes for at least 400 ms, whatever else there is."""
    long = [f for f in case.plan.faults if f.kind == "crash" and f.lasts_ms >= 400]
    return report(case.options, *["double run at 3.000000 s: x"] * bool(long))


def case() -> Case:
    faults = tuple(Fault(1_000 * n, "crash" if n == 6 else "pause", 3_200, (2,)) for n in range(12))
    options = Options(seed=3, clients=5, duration_s=60.0, nodes=3)
    violation = "double run at 9.000000 s: y"
    return Case(options=options, plan=Plan(faults, 45_000), violation=violation)


def test_faults_durations_clients_and_time_shrink():
    shrinker = Shrinker(case(), run=needs_the_crash)
    small = shrinker.shrink()
    assert [(f.kind, f.lasts_ms) for f in small.plan.faults] == [("crash", 400)]
    assert small.options.clients == 1
    assert small.options.duration_s < 20
    assert small.violation.startswith("double run at 3.0")


def test_another_violation_does_not_count():
    other = Shrinker(case(), run=lambda c: report(c.options, "liveness at 1.0 s: z"))
    assert other.shrink() == case()


def test_the_tries_are_bounded():
    shrinker = Shrinker(case(), run=needs_the_crash, tries_max=3)
    shrinker.shrink()
    assert shrinker.tries == 3


def test_a_case_survives_its_file():
    assert Case.from_json(case().to_json()) == case()


@pytest.mark.parametrize("data", [b"{", b"{}", b'{"options": {"seed": 1}, "plan": 3}'])
def test_a_wrong_file_is_refused_with_the_reason(data):
    with pytest.raises(BlixardError, match="plan"):
        Case.from_json(data)


def test_a_plan_for_other_hosts_is_refused():
    wrong = msgspec.structs.replace(case(), plan=Plan((Fault(1, "crash", 1, (9,)),), 10))
    with pytest.raises(BlixardError, match="hosts 1 to 3"):
        Case.from_json(wrong.to_json())


def test_the_name_of_a_violation_has_no_time():
    assert name_of("double run at 3.000000 s: u1 starts") == "double run"
    assert name_of("crash: node-1: a task") == "crash"
