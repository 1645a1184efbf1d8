from __future__ import annotations

import subprocess
import threading

import pytest

from blixard.base.errors import BlixardError


def names(ran):
    return [line.partition("\t")[0] for line in ran.out.splitlines()]


def test_nouns_and_verbs(cli):
    assert names(cli("__complete", "clu")) == ["cluster"]
    assert names(cli("__complete", "vm", "st")) == ["status", "start", "stop"]


def test_flags_own_and_global(cli):
    assert names(cli("__complete", "vm", "create", "x", "--re")) == [
        "--replicas",
        "--restart-policy",
        "--ready-http",
        "--ready-tcp",
        "--request-id",
    ]


def test_live_names_by_verb(cli):
    assert names(cli("__complete", "vm", "status", "")) == ["db", "web"]
    assert names(cli("__complete", "vm", "exec", "web-")) == ["web-1", "web-2", "web-3"]
    assert names(cli("__complete", "get", "nodes", "node")) == ["node1", "node2", "node3"]
    assert names(cli("__complete", "delete", "vm/w")) == ["vm/web"]


def test_new_names_are_not_suggested(cli):
    assert names(cli("__complete", "vm", "create", "")) == []


def test_names_are_kept_for_seconds(cli):
    cli("__complete", "vm", "status", "")
    calls = len(cli.api.calls)
    assert names(cli("__complete", "vm", "status", "")) == ["db", "web"]
    assert len(cli.api.calls) == calls


def test_silent_without_a_cluster(cli):
    cli.api.errors["GET", "/v1/namespaces/default/vms"] = BlixardError("UNREACHABLE", "nobody")
    assert cli("__complete", "vm", "status", "") == (0, "", "")


def test_silent_when_the_cluster_hangs(cli):
    cli.api.request = lambda *_, **__: threading.Event().wait(600)
    assert cli("__complete", "vm", "status", "") == (0, "", "")


def test_error_codes_and_kinds(cli):
    assert "NO_QUORUM" in names(cli("__complete", "explain", "error", "NO_"))
    assert names(cli("__complete", "describe", "op")) == ["operations"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_ask_the_program(cli, shell):
    assert "blixard __complete" in cli("completion", shell).out


def test_bash_accepts_its_script(cli):
    script = cli("completion", "bash").out
    subprocess.run(["bash", "-n"], input=script.encode(), check=True)
