"""A real Ceph cluster on loopback for tests: one monitor, one manager, OSDs in memory.

Everything stands under one directory, every daemon is a child that ends by its pid. All keys are
made before the monitor, whose ``mkfs`` takes them in: no round trips. OSDs keep their objects in
memory: they start in half a second, and one that returns comes up empty, as a replaced disk does.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator

from blixard.storage.ceph.caps import OWN_CAPS
from blixard.storage.ceph.link import CephConfig

PROGRAMS = ("ceph", "rbd", "rados", "ceph-mon", "ceph-mgr", "ceph-osd", "ceph-authtool")
UP_S = 60.0
END_S = 5.0
OSDS = 3

GLOBAL = """
[global]
fsid = {fsid}
mon_host = [v2:{address}:{port}/0,v1:{address}:{port1}/0]
public_addr = {address}
cluster_addr = {address}
ms_bind_port_min = {low}
ms_bind_port_max = {high}
run_dir = {place}/run
crash_dir = {place}/crash
admin_socket = {place}/run/$name.asok
pid_file = {place}/run/$name.pid
log_file = {place}/log/$name.log
auth_allow_insecure_global_id_reclaim = false
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_delete = true
mon_warn_on_pool_no_redundancy = false
mon_data_avail_warn = 2
mon_data_avail_crit = 1
mon_osd_reporter_subtree_level = osd
mon_osd_down_out_interval = 600
paxos_propose_interval = 0.05
mon_tick_interval = 1
mgr_tick_period = 1
mgr_stats_period = 1
mgr_initial_modules = iostat
osd_mon_report_interval = 1
osd_heartbeat_interval = 1
osd_heartbeat_grace = 5
keyring = {place}/keyring
[mon]
mon_data = {place}/mon.$id
mon_cluster_log_file = {place}/log/cluster.log
[mgr]
mgr_data = {place}/mgr.$id
[osd]
osd_data = {place}/osd.$id
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_class_load_list = *
osd_class_default_list = *
[client]
pid_file =
log_file =
admin_socket =
"""
OSD = """[osd.{id}]
crush_location = root=default host=host{id}
"""


class CephLab:
    """One cluster; ``config`` is how Blixard reaches it, under a user with the documented caps.

    *inside* is put before each command: the way into a network namespace that has *address*.
    """

    def __init__(
        self, place: pathlib.Path, address: str = "127.0.0.1", inside: tuple[str, ...] = ()
    ) -> None:
        self.place = place
        self._address = address
        self._inside = inside
        self.conf = place / "ceph.conf"
        self._fsid = str(uuid.uuid4())
        self._port = free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.config = CephConfig(
            conf=str(self.conf), user="blixard", keyring=str(place / "blixard.keyring")
        )

    # -- up --

    def start(self) -> None:
        """Bring everything up; return once all OSDs are in and the manager answers."""
        for name in ("run", "log", "crash", "mon.a", "mgr.x"):
            (self.place / name).mkdir()
        self._write_conf()
        self._write_keys()
        self._make_monitor()
        self.run("mon", "ceph-mon", "-i", "a", "-f")
        self.run("mgr", "ceph-mgr", "-i", "x", "-f")
        for number in range(OSDS):
            self._make_osd(number)
        for number in range(OSDS):
            self.start_osd(number)
        self.until(lambda: self.ceph("osd", "stat")["num_up_osds"] == OSDS)
        self.until(lambda: bool(self.ceph("mgr", "stat")["available"]))
        # Sizes reach the manager a moment later; before, every pool looks full.
        self.until(lambda: self.ceph("df")["stats"]["total_bytes"] >= OSDS << 31)

    def _write_conf(self) -> None:
        text = GLOBAL.format(
            fsid=self._fsid,
            address=self._address,
            port=self._port,
            port1=self._port + 1,
            low=self._port + 2,
            high=self._port + 99,
            place=self.place,
        )
        self.conf.write_text(text + "".join(OSD.format(id=n) for n in range(OSDS)))

    def _write_keys(self) -> None:
        every = {"mon": "allow *", "osd": "allow *", "mgr": "allow *"}
        osd = {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"}
        keys = {
            "mon.": {"mon": "allow *"},
            "client.admin": every,
            "client.blixard": OWN_CAPS,
            "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
            **{f"osd.{number}": osd for number in range(OSDS)},
        }
        (self.place / "keyring").touch(mode=0o600)
        for name, caps in keys.items():
            words = [word for part, cap in caps.items() for word in ("--cap", part, cap)]
            self.do("ceph-authtool", f"{self.place}/keyring", "--gen-key", "-n", name, *words)
        key = self.do("ceph-authtool", f"{self.place}/keyring", "-p", "-n", "client.blixard")
        own = pathlib.Path(self.config.keyring)
        own.touch(mode=0o600)
        own.write_text(f"[client.blixard]\n\tkey = {key.strip()}\n")

    def _make_monitor(self) -> None:
        address = f"[v2:{self._address}:{self._port},v1:{self._address}:{self._port + 1}]"
        monmap = f"{self.place}/monmap"
        create = ["monmaptool", "--create", "--clobber", "--fsid", self._fsid]
        self.do(*create, "--addv", "a", address, monmap)
        keyring = f"{self.place}/keyring"
        self.do("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)

    def _make_osd(self, number: int) -> None:
        own = str(uuid.uuid4())
        (self.place / f"osd.{number}").mkdir()
        self.do("ceph", "osd", "new", own, str(number))
        self.do("ceph-osd", "-i", str(number), "--mkfs", "--osd-uuid", own)

    def start_osd(self, number: int) -> None:
        """Start an OSD, for the first time or again."""
        self.run(f"osd.{number}", "ceph-osd", "-i", str(number), "-f")

    def start_monitor(self) -> None:
        """Start the monitor again."""
        self.run("mon", "ceph-mon", "-i", "a", "-f")

    # -- doing --

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self.conf), "MALLOC_ARENA_MAX": "1"}

    def run(self, name: str, *argv: str) -> None:
        """Start a daemon."""
        with open(self.place / "log" / f"{name}.out", "ab") as out:
            self._running[name] = subprocess.Popen(
                [*self._inside, *argv],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def do(self, *argv: str) -> str:
        """Run a program to its end and return its output."""
        done = subprocess.run(
            [*self._inside, *argv],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
        return done.stdout

    def ceph(self, *words: str) -> dict[str, object] | list[object]:  # type: ignore[explicit-any]
        """Ask as the administrator."""
        return json.loads(self.do("ceph", *words, "--format", "json"))

    @staticmethod
    def until(check: object, seconds: float = UP_S) -> None:
        """Wait until *check* says yes."""
        end_s = time.monotonic() + seconds
        while not check():  # type: ignore[operator]
            assert time.monotonic() < end_s, "the cluster did not get there"
            time.sleep(0.1)

    # -- down --

    def kill(self, name: str) -> None:
        """Kill a daemon as a power cut does."""
        process = self._running.pop(name)
        process.kill()
        process.wait(END_S)

    def pause(self, name: str) -> None:
        """Let a daemon hang."""
        self._running[name].send_signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let it run again."""
        self._running[name].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End every daemon that this object started."""
        for name in list(self._running):
            self.kill(name)


@contextlib.contextmanager
def ceph_lab(address: str = "127.0.0.1", inside: tuple[str, ...] = ()) -> Iterator[CephLab]:
    """Give a cluster; its daemons and its directory are gone afterwards."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="bx-ceph-"))
    lab = CephLab(place, address, inside)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()
        shutil.rmtree(place, ignore_errors=True)


def free_port() -> int:
    """Return the first of a hundred ports that nobody listens on, another run's monitor least."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        first = int(probe.getsockname()[1])
    ports = [20_000 + (first + number) % 100 * 100 for number in range(100)]
    return next(port for port in ports if _is_free(port) and _is_free(port + 1))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
