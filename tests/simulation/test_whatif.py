"""What happens if these nodes die: answered by real nodes that hold an exported cluster."""

import json
import pathlib

import pytest
from click.testing import CliRunner

from blixard.app.sim import sim
from blixard.base.errors import BlixardError
from blixard.simulation.exported import read_exported
from blixard.simulation.whatif import what_if

pytestmark = pytest.mark.simulation

FILE = pathlib.Path(__file__).parents[2] / "examples" / "cluster.json"


def asked(*killed, seed=1, text=None, for_s=20.0):
    return what_if(read_exported(text or FILE.read_text()), killed, seed=seed, for_s=for_s)


def rows(answer):
    return {row.name: row for row in answer.instances}


def replicas(answer):
    return {vm.name: (vm.before, vm.after) for vm in answer.vms}


def test_one_node_dies_and_everything_comes_back():
    answer = asked("node-a")
    found = rows(answer)
    assert answer.quorum.kept
    assert (found["db-1"].outcome, found["db-1"].on) == ("moved", "node-c")
    assert found["db-1"].back_after_s > answer.killed["node-a"] > 4
    assert (found["web-1"].outcome, found["web-4"].outcome) == ("Unknown", "new")
    assert "web-4 takes its place" in found["web-1"].why
    assert {found[name].outcome for name in ("web-2", "web-3", "batch-1")} == {"runs on"}
    assert replicas(answer) == {"batch": (1, 1), "db": (1, 1), "report": (1, 1), "web": (3, 3)}


def test_what_fits_nowhere_stays_pending_with_the_reasons_counted():
    row = rows(asked("node-a", "node-d"))["report-1"]
    assert (row.outcome, row.on, row.back_after_s) == ("Pending", "", None)
    assert "1 node: 1024 MiB memory free, 2560 needed" in row.why
    assert "2 nodes: not ready" in row.why


def test_local_data_waits_and_another_node_leads():
    answer = asked("node-b")
    assert "waits for that node" in rows(answer)["batch-1"].why
    assert answer.quorum.leader_before == "node-b"
    assert answer.quorum.leader in ("node-a", "node-c")
    assert answer.quorum.leader_after_s > 0


def test_without_a_quorum_guards_stop_what_is_fenced_and_the_rest_runs_on():
    answer = asked("node-b", "node-c")
    found = rows(answer)
    assert not answer.quorum.kept
    assert answer.says.startswith("quorum lost: 1 of 3 voters are left, 2 are needed")
    assert found["db-1"].outcome == found["report-1"].outcome == "stopped"
    assert 2 < found["db-1"].down_after_s < 6
    assert (found["web-1"].outcome, found["web-2"].outcome) == ("runs on", "down")
    assert replicas(answer)["web"] == (3, 1)


def test_what_was_lost_at_the_export_is_lost_before_the_others_die():
    text = FILE.read_text().replace('"state": "Ready"', '"state": "Lost"', 1)
    found = rows(asked("node-d", text=text))
    assert (found["web-1"].was_on, found["web-2"].outcome) == ("", "runs on")


def test_a_cluster_without_a_quorum_is_refused():
    text = FILE.read_text().replace('"state": "Ready"', '"state": "Lost"', 2)
    with pytest.raises(BlixardError, match="only 1 of 3 voters were Ready"):
        asked("node-d", text=text)


def test_the_same_seed_gives_the_same_answer():
    first, second, other = (asked("node-a", seed=seed, for_s=10) for seed in (7, 7, 8))
    assert first == second
    assert first != other


def call(*arguments):
    return CliRunner().invoke(sim, ["run", *arguments])


def test_the_command_answers_people_and_programs(tmp_path):
    asking = ("--from-snapshot", str(FILE), "--kill", "node-a", "--for", "10s")
    text = call(*asking).stdout
    assert "quorum kept: 2 of 3 voters are left" in text
    assert "WAS ON" in text
    document = json.loads(call(*asking, "-o", "json").stdout)
    assert document["quorum"]["kept"]
    assert {row["name"] for row in document["instances"]} >= {"db-1", "web-4"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kill", "node-a"), "needs --from-snapshot"),
        (("--from-snapshot", str(FILE)), "needs --kill"),
        (("--from-snapshot", str(FILE), "--kill", "node-x"), "no node 'node-x'"),
        (("--from-snapshot", "/nowhere.json", "--kill", "a"), "/nowhere.json: No such file"),
        (("--from-snapshot", str(FILE), "--kill", "node-a", "--seeds", "1-2"), "takes one --seed"),
        (("--from-snapshot", str(FILE), "--kill", "node-a", "--for", "0s"), "--for: between"),
    ],
)
def test_wrong_asking_is_one_error(arguments, said):
    result = call(*arguments)
    assert result.exit_code != 0
    assert said in result.output + str(result.exception)
