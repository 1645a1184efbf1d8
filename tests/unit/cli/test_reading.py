from __future__ import annotations

import json


def test_list_as_table(cli):
    ran = cli("vm", "list")
    assert ran.code == 0
    assert ran.out.splitlines()[0].split() == [
        "NAME",
        "PHASE",
        "READY",
        "IMAGE",
        "MEMORY",
        "VCPUS",
        "AGE",
        "MESSAGE",
    ]
    assert ran.out.splitlines()[2].startswith("web    Starting   2/3")


def test_list_as_json_document(cli):
    document = json.loads(cli("vm", "list", "-o", "json").out)
    assert document["kind"] == "VMList"
    assert [i["metadata"]["name"] for i in document["items"]] == ["db", "web"]


def test_global_flags_before_and_after(cli):
    texts = {
        cli(*words).out
        for words in (
            ("-o", "name", "vm", "list"),
            ("vm", "-o", "name", "list"),
            ("vm", "list", "--format", "name"),
        )
    }
    assert texts == {"vm/db\nvm/web\n"}


def test_flag_wins_over_environment(cli):
    assert cli("-q", "vm", "list", BLIXARD_FORMAT="json").out.startswith("{")
    assert cli("-o", "name", "vm", "list", BLIXARD_FORMAT="json").out == "vm/db\nvm/web\n"


def test_filters_and_labels_keep_rows(cli):
    assert cli("vm", "list", "-q", "--filter", "phase=pend*").out == "db\n"
    assert cli("vm", "list", "-q", "--filter", "phase!=Pending").out == "web\n"
    assert cli("vm", "list", "-q", "-l", "app=web").out == "web\n"
    assert cli("get", "instances", "-q", "--filter", "node=node2").out == "web-2\n"
    assert cli("vm", "list", "-q", "--filter", "spec.vcpus=2").out == "db\n"


def test_filtered_list_says_of_how_many(cli):
    assert "showing 1 of 2 vms" in cli("vm", "list", "-l", "app=web").err


def test_chosen_columns_and_no_headers(cli):
    ran = cli("get", "instances", "--columns", "NAME,WHERE=spec.nodeName,ip", "--no-headers")
    assert ran.out.splitlines()[0].split() == ["web-1", "node1", "10.77.0.2"]


def test_unknown_column_names_the_columns(cli):
    ran = cli("vm", "list", "--columns", "NOPE")
    assert ran.code == 2
    assert "NAME, PHASE" in ran.err


def test_path_expression_prints_values(cli):
    assert cli("get", "vm", "web", "-o", "path=spec.replicas").out == "3\n"
    assert (
        cli("vm", "status", "web", "-o", "path=status.instances[*].node").out
        == "node1\nnode2\nnode3\n"
    )
    assert cli("get", "vm", "-o", "path={.metadata.labels}").out == '{}\n{"app":"web"}\n'


def test_broken_path_names_the_place(cli):
    ran = cli("get", "vm", "web", "-o", "path=spec[")
    assert ran.code == 2
    assert "'['" in ran.err


def test_status_tells_where_and_why(cli):
    ran = cli("vm", "status", "web")
    assert "web: Starting, 2/3 ready, on node1, node2, node3" in ran.out
    assert "web-1: node1: fits, fewest instances of web (0)" in ran.out
    assert "| Kernel panic - not syncing" in ran.out


def test_describe_joins_instances_and_events(cli):
    ran = cli("describe", "vm", "web")
    assert "VM web" in ran.out
    assert "GuestExited" in ran.out
    assert "Scaled" in ran.out
    assert "web-2" in ran.out


def test_get_several_kinds(cli):
    assert cli("get", "vm,node", "-q").out.split() == ["db", "web", "node1", "node2", "node3"]
    assert cli("get", "vm/web", "node/node1", "-o", "name").out == "vm/web\nnode/node1\n"


def test_unknown_kind_suggests(cli):
    ran = cli("get", "instanes")
    assert ran.code == 3
    assert "did you mean 'instances'?" in ran.err


def test_missing_object_exits_with_three(cli):
    ran = cli("get", "vm", "nope")
    assert ran.code == 3
    assert ran.out == ""
    assert ran.err.startswith("error[NOT_FOUND]: ")


def test_error_as_json_document(cli):
    ran = cli("get", "vm", "nope", "--format", "json")
    assert json.loads(ran.err)["code"] == "NOT_FOUND"


def test_events_of_one_object(cli):
    ran = cli("events", "--for", "instance/web-3")
    assert "GuestExited" in ran.out
    assert "Scaled" not in ran.out


def test_watch_prints_changes_until_interrupted(cli):
    vm = cli.api.objects["vms", "web"]
    cli.api.changes = [
        {
            "type": "modified",
            "object": {**vm, "status": {"phase": "Running", "readyReplicas": 3}},
            "revision": 900,
        },
        {"type": "deleted", "object": vm, "revision": 901},
    ]
    ran = cli("vm", "list", "--watch")
    assert ran.code == 130
    assert "Running" in ran.out
    assert ran.out.splitlines()[-1].startswith("- web")


def test_cluster_status_sentence(cli):
    ran = cli("cluster", "status")
    assert ran.out.startswith("01JC: led by node1, 2 of 3 nodes ready, 3 voters")
    assert "term: 4" in cli("cluster", "status", "--verbose").out


def test_control_characters_do_not_reach_the_terminal(cli):
    cli.api.objects["vms", "web"]["status"]["message"] = "a\x1b[2Jb"
    assert "\x1b" not in cli("vm", "list").out


def test_version_without_a_cluster(cli):
    from blixard.base.errors import BlixardError

    cli.api.answers.clear()
    cli.api.errors["GET", "/v1/version"] = BlixardError("UNREACHABLE", "nobody there")
    ran = cli("version")
    assert ran.code == 0
    assert "client  0.1.0" in ran.out
    assert "nobody there" in ran.err


def test_unexpected_error_is_one_sentence_and_a_file(cli, tmp_path):
    cli.api.answers["GET", "/v1/cluster"] = None
    ran = cli("cluster", "status")
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert list((tmp_path / "state" / "blixard").glob("*.log"))


def test_unexpected_error_with_verbose_traceback(cli):
    cli.api.answers["GET", "/v1/cluster"] = None
    assert "Traceback" in cli("cluster", "status", "--verbose").err
