"""``vm migrate``: what is asked for, and what people are told while it goes on."""

from __future__ import annotations

import pytest

from blixard.base.errors import BlixardError

REPEATED = ("--request-id", "01J9Z3K6T4", "--detach")


def made(cli):
    """Return name and spec of the only migration."""
    ((_, name), migration) = next(
        pair for pair in cli.api.objects.items() if pair[0][0] == "migrations"
    )
    return name, migration["spec"]


def goes(cli, *statuses):
    """Let the migration that --request-id 01J9Z3K6T4 names go through these while it is watched."""
    assert cli("vm", "migrate", "web-1", *REPEATED).code == 0
    name, _ = made(cli)
    migration = cli.api.objects.pop(("migrations", name))
    cli.api.changes = [
        {"type": "modified", "object": {**migration, "status": status}, "revision": number}
        for number, status in enumerate(statuses)
    ]
    return name, cli("vm", "migrate", "web-1", *REPEATED[:2])


@pytest.mark.parametrize(
    ("flags", "spec"),
    [
        ((), {}),
        (("--target-node", "node2"), {"targetNode": "node2"}),
        (("--live", "--deadline", "2m"), {"live": True, "deadlineS": 120}),
        (("--no-live",), {"live": False}),
    ],
)
def test_flags_are_the_wish(cli, flags, spec):
    assert cli("vm", "migrate", "web-1", *flags, "--detach").code == 0
    name, asked = made(cli)
    assert asked == {"instance": "web-1", **spec}
    assert name.startswith("web-1-")


def test_two_migrations_have_two_names(cli):
    ran = [cli("vm", "migrate", "web-1", "--detach", "-o", "name").out for _ in range(2)]
    assert ran[0] != ran[1]


def test_steps_are_told_until_it_has_arrived(cli):
    way = {"source": "node1", "target": "node2"}
    figures = {"downtimeMs": 480, "totalMs": 1200, "bytes": 76 << 20}
    name, ran = goes(
        cli,
        {"phase": "Preparing", **way},
        {"phase": "Copying", **way},
        {"phase": "Switching", **way},
        {"phase": "Succeeded", **way, **figures},
    )
    assert ran.code == 0
    assert ran.err.splitlines() == [
        f"migration/{name}: Pending: waits for the cluster",
        f"migration/{name}: Preparing: node2 makes a process that waits for the guest of node1",
        f"migration/{name}: Copying: memory goes from node1 to node2",
        f"migration/{name}: Switching: web-1 belongs to node2 and is about to go on there",
        f"migration/{name}: web-1 runs on node2: it stood still for 480ms, 76MiB were sent in 1.2s",
    ]


def test_failure_names_the_reason(cli):
    name, ran = goes(cli, {"phase": "Failed", "reason": "the target node2 was lost"})
    assert ran.code == 1
    assert f"error[MIGRATION_FAILED]: migration/{name}: Failed: the target node2" in ran.err


def test_refusal_is_shown_as_it_is(cli):
    def refuse(*_):
        raise BlixardError("INVARIANT", "it is on node1 already")

    cli.api._put = refuse
    ran = cli("vm", "migrate", "web-1", "--target-node", "node1")
    assert ran.code == 5
    assert "it is on node1 already" in ran.err


def test_completion_offers_instances_and_nodes(cli):
    said = cli("__complete", "vm", "migrate", "web-").out
    assert [line.partition("\t")[0] for line in said.splitlines()] == ["web-1", "web-2", "web-3"]
    said = cli("__complete", "vm", "migrate", "web-1", "--target-node", "").out
    assert [line.partition("\t")[0] for line in said.splitlines()] == ["node1", "node2", "node3"]
