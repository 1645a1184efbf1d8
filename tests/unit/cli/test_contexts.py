from __future__ import annotations

import pytest

from blixard.base.errors import BlixardError
from blixard.cli.contexts_file import resolve, with_current
from blixard.cli.flags import Flags


@pytest.fixture
def with_file(cli, tmp_path):
    cli(
        "context", "add", "prod", "--address", "10.0.0.1:7443", "--ca-file", "/ca.pem", "-n", "shop"
    )
    cli("context", "add", "lab", "--address", "/tmp/lab.sock")
    return cli


def target(cli, **given):
    flags = Flags(cli.environ)
    flags.given = given
    return resolve(flags)


def test_first_context_becomes_current(with_file):
    found = target(with_file)
    assert (found.address, found.ca_file, found.namespace) == ("10.0.0.1:7443", "/ca.pem", "shop")


def test_use_changes_the_current_one(with_file):
    assert with_file("context", "use", "lab").code == 0
    assert target(with_file).address == "/tmp/lab.sock"
    assert with_file("context", "list", "-q").out == "lab\nprod\n"


def test_precedence_of_addresses(with_file):
    with_file.environ["BLIXARD_ADDRESS"] = "env:1"
    assert target(with_file).origin == "BLIXARD_ADDRESS"
    assert target(with_file, context="lab").origin == "context lab"
    assert target(with_file, context="lab", address="flag:1").origin == "--address"


def test_unknown_context_suggests(with_file):
    ran = with_file("context", "use", "prodd")
    assert ran.code == 3
    assert "'prod'" in ran.err


def test_damaged_context_file_is_named(cli, tmp_path):
    (tmp_path / "config" / "blixard").mkdir(parents=True)
    (tmp_path / "config" / "blixard" / "contexts.toml").write_text("current =")
    assert cli("context", "list").code == 2


def test_nothing_named_says_what_to_do(cli):
    cli.environ["BLIXARD_CONFIG_FILE"] = "/nowhere/config.toml"
    with pytest.raises(BlixardError, match="no cluster is named") as caught:
        target(cli)
    assert caught.value.info.exit_code == 8


def test_socket_of_the_configured_data_directory(cli, tmp_path):
    (tmp_path / "config.toml").write_text(f'[cluster]\ndata_dir = "{tmp_path}"\n')
    (tmp_path / "api.sock").touch()
    cli.environ["BLIXARD_CONFIG_FILE"] = str(tmp_path / "config.toml")
    assert target(cli).address == str(tmp_path / "api.sock")


def test_current_line_alone_is_replaced():
    assert (
        with_current('# mine\ncurrent = "a"\n[contexts.a]\n', "b")
        == '# mine\ncurrent = "b"\n[contexts.a]\n'
    )
