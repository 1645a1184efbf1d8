"""``blixard sim run`` as a user calls it."""

import json

import pytest
from click.testing import CliRunner
from tests.simulation.mutants import forget_a_write

from blixard.app.sim import sim

pytestmark = pytest.mark.simulation


def run(*arguments):
    return CliRunner().invoke(sim, ["run", *arguments], standalone_mode=True)


def test_json_carries_a_hash_per_seed():
    result = run("--seeds", "1-2", "--duration", "20s", "--only", "raft", "--format", "json")
    document = json.loads(result.stdout)
    assert document["ok"]
    assert [row["seed"] for row in document["seeds"]] == [1, 2]
    assert len({row["trace_hash"] for row in document["seeds"]}) == 2


def test_several_jobs_give_the_same_reports():
    arguments = ("--seeds", "1-2", "--duration", "15s", "--only", "raft", "--format", "json")
    one, two = (json.loads(run(*arguments, "--jobs", jobs).stdout) for jobs in "12")
    assert [r["trace_hash"] for r in one["seeds"]] == [r["trace_hash"] for r in two["seeds"]]


def test_failing_seed_prints_its_replay_command():
    with forget_a_write():
        result = run("--seeds", "1-8", "--only", "raft")
    assert result.exit_code == 1
    assert "replay: blixard sim run --seed" in result.stdout


@pytest.mark.parametrize("arguments", [(), ("--seed", "1", "--seeds", "1-2"), ("--seeds", "5-1")])
def test_wrong_seeds_are_a_usage_error(arguments):
    assert run(*arguments).exit_code == 2
