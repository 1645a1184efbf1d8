"""``blixard sim run`` as a user calls it."""

import json

import pytest
from click.testing import CliRunner
from tests.simulation.mutants import acknowledge_before_sync, forget_a_write

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


def call(*arguments):
    return CliRunner().invoke(sim, arguments, standalone_mode=True)


SHORT = ("--seed", "3", "--nodes", "3", "--duration", "10s", "--only", "raft")


def test_a_replay_is_the_same_run_and_shows_its_events():
    seen = call("replay", *SHORT, "--event", "role:leader")
    assert seen.exit_code == 0
    first, *_, last = seen.stdout.splitlines()
    assert "role:leader" in first
    ran = json.loads(run(*SHORT, "--format", "json").stdout)["seeds"][0]
    assert ran["trace_hash"] in last


def test_a_report_is_one_page_with_the_run_in_it(tmp_path):
    out = tmp_path / "run.html"
    assert call("report", *SHORT, "--out", str(out)).exit_code == 0
    text = out.read_text()
    data = json.loads(text.partition("const DATA = ")[2].partition(";\n")[0])
    assert data["hosts"] == ["node-1", "node-2", "node-3"]
    assert len(data["messages"]) > 100
    assert any(role == "leader" for _, _, role, _ in data["roles"])
    assert "http" not in text.replace(text.partition("const DATA = ")[2], "")


def test_a_failing_run_shrinks_to_a_file_that_repeats_it(tmp_path):
    out = tmp_path / "small.json"
    with forget_a_write():
        failing = next(
            seed
            for seed in range(1, 9)
            if run("--seed", str(seed), "--only", "raft", "--nodes", "3").exit_code
        )
        arguments = ("--seed", str(failing), "--only", "raft", "--nodes", "3", "--tries", "25")
        shrunk = call("shrink", *arguments, "--out", str(out))
        again = call("replay", "--plan", str(out))
    assert shrunk.exit_code == 0, shrunk.output
    assert again.exit_code == 1
    assert json.loads(out.read_bytes())["violation"].partition(" at ")[0] in again.stdout


def test_a_run_without_a_failure_has_nothing_to_shrink(tmp_path):
    assert call("shrink", *SHORT, "--out", str(tmp_path / "x")).exit_code != 0
    assert not (tmp_path / "x").exists()


def test_scenarios_are_listed_with_their_incidents():
    listed = call("scenarios")
    assert listed.exit_code == 0
    assert "restarts/before-save" in listed.stdout
    document = json.loads(call("scenarios", "--format", "json").stdout)
    assert all(s["summary"] and s["incident"] and s["rows"] for s in document["scenarios"])


def test_scenarios_run_by_name_and_seeds():
    result = call("scenarios", "restarts/after-save", "--seeds", "1-2", "-o", "json")
    document = json.loads(result.stdout)
    (scenario,) = document["scenarios"]
    assert document["ok"]
    assert [r["seed"] for r in scenario["runs"]] == [1, 2]
    assert scenario["runs"][1]["replay"] == "blixard sim scenarios restarts/after-save --seed 2"


def test_a_scenario_that_breaks_is_shown_with_what_repeats_it():
    with acknowledge_before_sync():
        result = call("scenarios", "restarts/before-save", "--seed", "1")
    assert result.exit_code == 1
    assert "durability" in result.stdout
    assert "replay: blixard sim scenarios restarts/before-save --seed 1" in result.stdout
    assert "1 runs of 1 scenarios, 1 failed" in result.stdout


def test_an_unknown_scenario_is_refused():
    assert "no scenario 'restarts/x'" in str(call("scenarios", "restarts/x").exception)
