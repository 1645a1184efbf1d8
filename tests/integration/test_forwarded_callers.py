"""A worker passes on whose request it is; the voter that answers judges it."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Iterator

import pytest
from control_plane import NodeUnderTest, Ran, control_plane

from blixard.daemon.files import NodeFiles
from blixard.security import ca
from blixard.security.identity import Identity
from blixard.security.tls import API_NAME

pytestmark = [pytest.mark.netns, pytest.mark.slow]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    """A node that holds no state, beside the one voter."""
    with control_plane(tmp_path_factory.mktemp("plane"), 2) as plane:
        yield plane.nodes[1]


def over_tls(worker: NodeUnderTest, *words: str, **environ: str) -> Ran:
    """Run a command against the worker's TLS port, as who the environment says."""
    authority = str(worker.data_dir / "pki" / "ca.crt")
    given = {"BLIXARD_CA_FILE": authority, "BLIXARD_SERVER_NAME": API_NAME, **environ}
    return worker.plane.run(worker, "--address", worker.address, *words, environ=given)


def test_key_is_judged_where_it_ends(worker: NodeUnderTest, tmp_path: pathlib.Path) -> None:
    voter, secret = worker.plane.nodes[0], str(tmp_path / "ci.key")
    made = voter.cli("auth", "create-key", "--name", "ci", "--role", "admin",
                     "--output-file", secret)  # fmt: skip
    assert made.code == 0, made.err
    assert over_tls(worker, "kv", "put", "app/color", "blue").code == 4
    wrote = over_tls(worker, "kv", "put", "app/color", "blue", BLIXARD_KEY_FILE=secret)
    assert wrote.code == 0, wrote.err
    assert voter.cli("kv", "get", "app/color").out == "blue\n"
    assert voter.cli("auth", "revoke-key", "ci", "--yes").code == 0
    refused = over_tls(worker, "kv", "get", "app/color", BLIXARD_KEY_FILE=secret)
    assert (refused.code, "error[UNAUTHENTICATED]" in refused.err) == (4, True), refused.err


def certificate(voter: NodeUnderTest, directory: pathlib.Path, name: str) -> dict[str, str]:
    """Make a user's certificate by the cluster's authority, which the voter holds."""
    files = NodeFiles(str(voter.data_dir))
    issuer, key = files.load_issuer(), ca.make_key()
    assert issuer is not None
    who = Identity(trust_domain=files.load().trust_domain, kind="user", name=name)
    chain = ca.issue_user_certificate(
        issuer, ca.make_request(key), who, now_ms=time.time_ns() // 1_000_000
    )
    paths = directory / f"{name}.crt", directory / f"{name}.key"
    for path, data in zip(paths, (chain, key), strict=True):
        path.write_bytes(data)
    return {"BLIXARD_CERT_FILE": str(paths[0]), "BLIXARD_CERT_KEY_FILE": str(paths[1])}


def test_certificate_is_judged_where_it_ends(worker: NodeUnderTest, tmp_path: pathlib.Path) -> None:
    voter = worker.plane.nodes[0]
    alice = certificate(voter, tmp_path, "alice")
    refused = over_tls(worker, "get", "nodes", **alice)
    assert (refused.code, "user:alice lacks node:list" in refused.err) == (4, True), refused.err
    config = voter.json("get", "clusterconfig", "cluster")
    config["metadata"] = {"name": "cluster", "labels": {"blixard.dev/user-role.alice": "viewer"}}
    config.pop("status", None)
    applied = voter.cli("apply", "-f", "-", stdin=json.dumps(config))
    assert applied.code == 0, applied.err
    shown = over_tls(worker, "get", "nodes", **alice)
    assert shown.code == 0, shown.err
    assert "node2" in shown.out
    written = over_tls(worker, "kv", "put", "app/color", "red", **alice)
    assert (written.code, "user:alice lacks" in written.err) == (4, True), written.err


def test_root_of_a_worker_is_root_of_that_worker_only(worker: NodeUnderTest) -> None:
    assert worker.cli("cluster", "status").code == 0
    assert worker.json("get", "instances")["items"] == []
    for words in (("kv", "get", "app/color"), ("get", "vms"), ("kv", "put", "app/color", "red")):
        ran = worker.cli(*words)
        assert (ran.code, "error[FORBIDDEN]: node/node2/root lacks" in ran.err) == (4, True)
        assert "use an API key or a certificate, or the socket of a voter" in ran.err
