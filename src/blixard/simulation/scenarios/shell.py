"""The command line inside the simulated world: the product's commands, client and server."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

from blixard.api.client import ApiClient
from blixard.cli.tree import LazyGroup, Row, run
from blixard.node.api import NodeApi
from blixard.simulation.cluster import App
from blixard.simulation.observed import Watch
from blixard.simulation.scenarios.stage import Stage
from blixard.simulation.web import SimOutside, Web
from blixard.simulation.whole import NodeApp
from blixard.simulation.world import Host

_CLIENT = 92
_SERVED = {
    "vm": {
        "create": "vm_write:create", "start": "vm_write:start", "stop": "vm_write:stop",
        "restart": "vm_write:restart", "scale": "vm_write:scale", "delete": "vm_write:delete",
        "list": "vm_read:list_vms", "status": "vm_read:status",
    },
    "kv": {"put": "kv:put", "get": "kv:get", "list": "kv:list_keys", "delete": "kv:delete"},
    "cluster": {
        "status": "cluster:status", "remove-node": "cluster:remove_node",
        "force-remove-node": "cluster:force_remove_node",
    },
}  # fmt: skip
_ALONE = {"get": "objects:get", "wait": "waiting:wait", "events": "events:events"}


def _row(target: str) -> Row:
    return Row(f"blixard.cli.{target}", "")


# The commands that ask a cluster; the program's own table, which adds local ones, stands above us.
COMMANDS = LazyGroup(
    "blixard",
    {
        **{
            noun: LazyGroup(noun, {verb: _row(target) for verb, target in verbs.items()})
            for noun, verbs in _SERVED.items()
        },
        **{name: _row(target) for name, target in _ALONE.items()},
    },
)


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


class Shell:
    """Runs command lines against the simulated cluster; *root* is the table of commands."""

    def __init__(self, stage: Stage, root: LazyGroup = COMMANDS) -> None:
        self._stage = stage
        self._root = root
        env = stage.world.client(_CLIENT)
        self.outside = SimOutside(env, stage.world.loop)
        nodes = [host.uid for host in stage.world.hosts]
        self.client = ApiClient(*nodes, outside=self.outside)

    def __call__(self, *arguments: str) -> Ran:
        """Run one command line while the world goes on."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(
                self._root, list(arguments), {"NO_COLOR": "1"}, api=self.client,
                now_ms=self.outside.time_ms(), outside=self.outside,
            )  # fmt: skip
        self._stage.run_for(0)
        return Ran(code, out.getvalue(), err.getvalue())

    def good(self, *arguments: str) -> str:
        """Run one command line that has to succeed; return what it printed."""
        ran = self(*arguments)
        words = " ".join(arguments)
        self._stage.expect(not ran.code, f"{words!r} ends with {ran.code}: {ran.err or ran.out}")
        return ran.out


def serve(stage: Stage) -> None:
    """Let every node serve its API; before the hosts boot."""
    make = stage.factory

    def served(host: Host, hosts: list[Host], watch: Watch) -> App:
        app = make(host, hosts, watch)
        assert isinstance(app, NodeApp)
        assert host.daemon is not None
        api = NodeApi(app.node)
        api.register()
        Web(host.daemon.env, api.service)
        return app

    stage.factory = served
