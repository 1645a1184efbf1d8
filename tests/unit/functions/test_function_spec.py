import pytest

from blixard.functions.spec import FunctionSpec, validate_function


def pointers(**spec):
    return [problem.pointer for problem in validate_function(FunctionSpec(**spec))]


def test_plain_function_has_no_problem():
    assert pointers(source="def handler(event, context): pass") == []


def test_all_problems_come_at_once():
    found = pointers(
        source=" ",
        runtime="cobol",
        packages=("Bad Name",),
        memory="1MiB",
        timeout="1h",
        idle_timeout="none",
        environment={"A B": "x"},
        min_warm=5,
        max_instances=2,
    )
    assert found == [
        "/spec/runtime",
        "/spec/source",
        "/spec/packages/0",
        "/spec/environment/A B",
        "/spec/memory",
        "/spec/timeout",
        "/spec/idleTimeout",
        "/spec/minWarm",
    ]


@pytest.mark.parametrize("runtime", ["nix", "wasm", "rust", "container"])
def test_absent_runtimes_are_named_with_what_there_is(runtime):
    (problem,) = validate_function(FunctionSpec(source="x", runtime=runtime))
    assert "not there yet" in problem.message
    assert problem.accepted == ("python",)


def test_large_sources_are_refused():
    assert pointers(source="x" * (256 * 1024 + 1)) == ["/spec/source"]
