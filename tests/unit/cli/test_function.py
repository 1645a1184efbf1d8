from __future__ import annotations

import base64
import json

import pytest

from blixard.base.errors import BlixardError

INVOKE = "/v1/namespaces/default/functions/hello/invoke"
CODE = "def handler(event, context):\n    return 1\n"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "hello.py"
    path.write_text(CODE)
    return str(path)


def spec_of(cli):
    return next(body["spec"] for m, _, _, body in cli.api.calls if m == "PUT")


def test_deploy_sends_only_what_was_said(cli, source):
    ran = cli("function", "deploy", "new", source, "--detach")
    assert (ran.code, ran.out) == (0, "function/new deployed\n")
    assert spec_of(cli) == {"source": CODE, "handler": "hello.handler"}


def test_deploy_sends_all_flags(cli, source):
    ran = cli(
        "function", "create", "hello", source, "--runtime", "python", "--handler", "hello.run",
        "--memory", "256M", "--timeout", "10s", "--env", "A=b=c,d", "--env", "E=", "--packages",
        "python3-pil, curl", "--concurrent-executions", "7", "--max-instances", "9",
        "--min-warm", "1", "--idle-timeout", "5m", "--vcpus", "2", "--detach",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert spec_of(cli) == {
        "source": CODE, "runtime": "python", "handler": "hello.run", "memory": "256M",
        "timeout": "10s", "environment": {"A": "b=c,d", "E": ""},
        "packages": ["python3-pil", "curl"], "maxConcurrent": 7, "maxInstances": 9, "minWarm": 1,
        "idleTimeout": "5m", "vcpus": 2,
    }  # fmt: skip


def test_deploy_waits_until_nodes_are_ready(cli, source):
    ran = cli("function", "deploy", "hello", source)
    assert ran.code == 0
    assert "function/hello: Ready" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), "USAGE", "needs its source"),
        (("none.py",), "USAGE", "none.py cannot be read"),
        (("SOURCE", "--env", "x"), "USAGE", "--env 'x' is no NAME=VALUE"),
        (("SOURCE", "--runtime", "rust"), "FEATURE_ABSENT", "--runtime rust is not there yet"),
        (("SOURCE", "--data-hint", "x"), "FEATURE_ABSENT", "--data-hint needs data locality"),
        (("--config", "f.nix"), "NIX_UNAVAILABLE", "made with Nix"),
        (("SOURCE", "--runtime", "perl"), "USAGE", "perl"),
    ],
)
def test_wrong_deploy_is_named_before_anything_is_sent(cli, source, words, code, said):
    ran = cli("function", "deploy", "x", *(source if w == "SOURCE" else w for w in words))
    assert f"error[{code}]" in ran.err
    assert said in ran.err
    assert "hint: " in ran.err
    assert not cli.api.calls


def test_invoke_prints_the_result_and_where_it_ran(cli):
    cli.api.answers["POST", INVOKE] = {"hello": "Ada"}
    cli.api.told = {
        "blixard-function-cold": "true",
        "blixard-function-node": "node2",
        "blixard-function-phases-ms": "place=1, boot=3200, load=700, handler=0.2",
    }
    ran = cli("function", "invoke", "hello", "--data", '{"name": "Ada"}')
    assert (ran.code, json.loads(ran.out)) == (0, {"hello": "Ada"})
    assert ran.err == (
        "cold start on node2: place 1 ms, boot 3200 ms, load 700 ms, handler 0.2 ms\n"
    )
    assert cli.api.calls[-1] == ("POST", INVOKE, {}, {"name": "Ada"})


def test_invoke_quietly_prints_the_result_alone(cli):
    cli.api.answers["POST", INVOKE] = [1]
    ran = cli("function", "invoke", "hello", "-q", "-o", "yaml")
    assert (ran.code, ran.out.strip(), ran.err) == (0, "- 1", "")


def test_invoke_shows_the_log_cleanly(cli):
    cli.api.answers["POST", INVOKE] = None
    lines = base64.b64encode(json.dumps(["one", "\x1b[31mtwo"]).encode()).decode()
    cli.api.told = {"blixard-function-log": lines}
    ran = cli("function", "invoke", "hello", "--logs")
    assert ran.out == "null\n"
    assert ran.err.splitlines()[:2] == ["one", "\N{REPLACEMENT CHARACTER}[31mtwo"]
    assert cli.api.calls[-1][2] == {"logs": "true"}


def test_invoke_takes_the_event_from_a_file(cli, tmp_path):
    cli.api.answers["POST", INVOKE] = 1
    (tmp_path / "event.json").write_text('{"a": [1]}')
    assert cli("function", "invoke", "hello", "--data", f"@{tmp_path}/event.json").code == 0
    assert cli.api.calls[-1][3] == {"a": [1]}
    assert cli("function", "invoke", "hello").code == 0
    assert cli.api.calls[-1][3] == {}


@pytest.mark.parametrize("data", ["{", "", "@/none/there"])
def test_event_that_is_none_is_named(cli, data):
    ran = cli("function", "invoke", "hello", "--data", data)
    assert (ran.code, "error[USAGE]" in ran.err) == (2, True)
    assert not cli.api.calls


def test_error_of_a_handler_has_its_words(cli):
    payload = json.dumps({"errorMessage": "no such order", "errorType": "ValueError"})
    details = {"errorType": "ValueError", "payload": payload, "log": ["a line"], "node": "node2"}
    cli.api.errors["POST", INVOKE] = BlixardError("FUNCTION_FAILED", "ValueError", details=details)
    ran = cli("function", "invoke", "hello", "--logs")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines()[:2] == [
        "a line", "error[FUNCTION_FAILED]: ValueError: no such order"
    ]  # fmt: skip
    assert "a line" not in cli("function", "invoke", "hello").err


def test_call_that_is_too_late_is_exit_code_seven(cli):
    details = {"errorType": "Sandbox.Timedout", "payload": "null"}
    cli.api.errors["POST", INVOKE] = BlixardError("FUNCTION_TIMEOUT", details=details)
    ran = cli("function", "invoke", "hello")
    assert ran.code == 7
    assert "error[FUNCTION_TIMEOUT]: Sandbox.Timedout" in ran.err


def test_delete_asks_and_deletes(cli):
    assert cli("function", "delete", "hello", "--no-input").code == 2
    ran = cli("function", "delete", "hello", "--yes")
    assert (ran.code, ran.out) == (0, "function/hello deleted\n")
    assert ("functions", "hello") not in cli.api.objects


def test_names_are_completed(cli):
    said = cli("__complete", "function", "invoke", "").out
    assert said.partition("\n")[0] == "hello"
    assert cli("__complete", "function", "deploy", "").out == ""
