"""What ``doctor`` looks at: rows judged from measurements; those of this machine need no daemon."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any, Literal

import msgspec

from blixard.base.errors import BlixardError
from blixard.consensus.config import MIB, RaftConfig
from blixard.daemon.files import NodeFiles
from blixard.daemon.recover import MARK
from blixard.node.node import RAFT_DIRECTORY
from blixard.security import ca
from blixard.security.identity import from_pem

SYNCS, SYNCS_S, SYNC_BYTES = 100, 3.0, 4096
SYNC_GOOD_MS, SYNC_BAD_MS = 10.0, 500.0  # bad: as long as an election
ROOM_GOOD_BYTES = 512 * MIB
CLOCK_GOOD_MS, CLOCK_BAD_MS = 500.0, 60_000.0
BACKLOG_GOOD = 10_000
_PROBE = ".doctor"
_HYPERVISOR = "qemu-system-x86_64"
REPLACE = "on another node: blixard cluster force-remove-node {0}, then add-node; join here anew"

State = Literal["ok", "warn", "fail"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at; a row that is not ok says what to do."""

    check: str
    state: State
    found: str
    hint: str = ""


def _row(check: str, state: State, found: str, hint: str = "") -> Row:
    return Row(check=check, state=state, found=found, hint="" if state == "ok" else hint)


# -- this machine --


def local_rows(data_dir: str) -> list[Row]:
    """Measure and read what is on this machine; takes a few seconds at most."""
    files = NodeFiles(data_dir)
    if not files.exists():
        hint = "blixard init or blixard cluster join; --data-dir names another directory"
        return [_row("data directory", "warn", f"{data_dir} holds no node", hint), hypervisor()]
    return [
        _data_directory(files, data_dir),
        _synced(data_dir),
        room(shutil.disk_usage(data_dir).free),
        _certificate(files),
        hypervisor(),
    ]


def _data_directory(files: NodeFiles, data_dir: str) -> Row:
    check = "data directory"
    try:
        name = files.load().node.name
    except (BlixardError, OSError, msgspec.MsgspecError) as error:
        return _row(check, "fail", f"{data_dir}: {error}", "run it as the daemon's user, or root")
    if os.path.exists(os.path.join(data_dir, MARK)):
        hint = f"blixard cluster recover --unsafe --data-dir {data_dir}"
        return _row(check, "fail", f"{data_dir}: a recovery was interrupted", hint)
    if os.path.exists(os.path.join(data_dir, RAFT_DIRECTORY, "quarantine")):
        return _row(
            check, "fail", f"{name} is quarantined: its state is wrong", REPLACE.format(name)
        )
    voter = os.path.exists(os.path.join(data_dir, RAFT_DIRECTORY, "identity"))
    return _row(check, "ok", f"{name} in {data_dir}, {'with' if voter else 'without'} a log")


def _synced(data_dir: str) -> Row:
    try:
        return sync_time(measure_syncs(os.path.join(data_dir, _PROBE)))
    except OSError as error:
        return _row("sync to disk", "fail", str(error), "look at the disk, the room and the mode")


def measure_syncs(path: str) -> list[float]:
    """Return how long writes of 4 KiB with their sync took (ms); the file is removed again."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    found: list[float] = []
    try:
        end = time.monotonic() + SYNCS_S
        while len(found) < SYNCS and time.monotonic() < end:
            began = time.monotonic()
            os.pwrite(descriptor, bytes(SYNC_BYTES), len(found) * SYNC_BYTES)
            os.fdatasync(descriptor)
            found.append((time.monotonic() - began) * 1000)
    finally:
        os.close(descriptor)
        os.unlink(path)
    return found


def sync_time(times_ms: list[float]) -> Row:
    """Judge how long a write takes to be durable: every write of the cluster waits for it."""
    ordered = sorted(times_ms)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    state: State = "ok" if p99 < SYNC_GOOD_MS else "warn" if p99 < SYNC_BAD_MS else "fail"
    found = f"p99 {p99:.1f} ms, median {ordered[len(ordered) // 2]:.1f} ms of {len(ordered)}"
    return _row("sync to disk", state, found, "a disk of its own, or a faster one")


def room(free_bytes: int) -> Row:
    """Judge the room in the data directory against the reserve."""
    config = RaftConfig()
    least = config.min_free_bytes + 2 * config.reserve_bytes
    state: State = (
        "ok" if free_bytes >= ROOM_GOOD_BYTES else "warn" if free_bytes >= least else "fail"
    )
    found = f"{free_bytes // MIB} MiB free, writes are refused below {least // MIB} MiB"
    return _row("disk space", state, found, "free space; the node takes writes again by itself")


def _certificate(files: NodeFiles) -> Row:
    try:
        chain = files.load_tls().chain_pem
        peer, renew_at_ms = from_pem(chain), ca.renew_at_ms(chain)
    except (BlixardError, OSError, ValueError) as error:
        return _row("certificate", "fail", str(error), "run it as the daemon's user, or root")
    return certificate(time.time_ns() // 1_000_000, peer.not_after_ms, renew_at_ms)


def certificate(now_ms: int, not_after_ms: int, renew_at_ms: int) -> Row:
    """Judge the node's certificate: a running daemon renews it at half of its life."""
    left_h = (not_after_ms - now_ms) / 3_600_000
    if left_h <= 0:
        hint = "start the daemon where a voter answers; else join again with a new token"
        return _row("certificate", "fail", f"ran out {-left_h:.1f} h ago", hint)
    late = now_ms > renew_at_ms + 3_600_000
    hint = "is the daemon up, and does the leader answer? Its log says renewal_failed"
    return _row("certificate", "warn" if late else "ok", f"valid for {left_h:.1f} h more", hint)


def hypervisor() -> Row:
    """Tell whether guests can run here, and how fast."""
    if shutil.which(_HYPERVISOR) is None:
        return _row("hypervisor", "fail", f"{_HYPERVISOR} is not here", "install QEMU")
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        return _row("hypervisor", "ok", "QEMU with KVM")
    hint = "switch virtualisation on, or give access to /dev/kvm"
    return _row("hypervisor", "warn", "QEMU without KVM: guests are emulated, slowly", hint)


# -- the cluster, as the asked node sees it --


def cluster_rows(status: dict[str, Any], versions: tuple[str, str]) -> list[Row]:
    """Judge what ``/v1/cluster`` says; *versions* are this program's and the daemon's. Pure."""
    raft = status.get("raft", {})
    names = {n["uid"]: n["name"] for n in status.get("nodes", [])}
    return [
        _row("daemon", "ok", f"{status.get('answeredBy', 'a node')} answers"),
        _quorum(raft, names),
        _clocks(raft, names),
        _states(raft, names, str(status.get("answeredBy", ""))),
        _rooms(raft, names),
        _backlog(raft, names),
        _versions(versions, int(status.get("featureLevel", 1))),
    ]


def _names(health: list[dict[str, Any]], names: dict[str, str]) -> str:
    return ", ".join(names.get(h["uid"], h["uid"]) for h in health)


def _quorum(raft: dict[str, Any], names: dict[str, str]) -> Row:
    voters = {m["uid"] for m in raft.get("members", []) if not m.get("learner")}
    silent = [h for h in raft.get("health", []) if h["uid"] in voters and not h["answered"]]
    alive, majority = len(voters) - len(silent), len(voters) // 2 + 1
    margin = alive - majority
    found = f"{alive} of {len(voters)} voters answer"
    found += f" (silent: {_names(silent, names)})" if silent else ""
    if margin < 0:
        hint = "start the silent nodes; if they are lost for good: blixard cluster recover"
        return _row("quorum", "fail", f"{found}: no majority", hint)
    if margin == 0:
        hint = "start the silent nodes" if silent else "add nodes: three voters bear one loss"
        return _row("quorum", "warn", f"{found}: none may fail", hint)
    return _row("quorum", "ok", f"{found}: {margin} more may fail")


def _clocks(raft: dict[str, Any], names: dict[str, str]) -> Row:
    seen = [h for h in raft.get("health", []) if h["answered"]]
    if not seen:
        return _row("clocks", "ok", "no other member to compare with")
    worst = max(seen, key=lambda h: abs(h["clockOffsetMs"]))
    off = abs(worst["clockOffsetMs"])
    state: State = "ok" if off < CLOCK_GOOD_MS else "warn" if off < CLOCK_BAD_MS else "fail"
    found = f"at most {off:.0f} ms apart ({_names([worst], names)})"
    return _row("clocks", state, found, "run a time service on all nodes (chrony, timesyncd)")


def _states(raft: dict[str, Any], names: dict[str, str], own: str) -> Row:
    check = "state"
    if raft.get("quarantine"):
        return _row(check, "fail", f"{own}: {raft['quarantine']}", REPLACE.format(own))
    wrong = [h for h in raft.get("health", []) if h["quarantined"]]
    if wrong:
        name = _names(wrong, names)
        return _row(check, "fail", f"quarantined: {name}", REPLACE.format(name))
    differing = [h for h in raft.get("health", []) if h["state"] == "differs"]
    if differing:
        hint = "start the other voters: two alike decide; write nothing until then"
        found = f"{own} and {_names(differing, names)} differ, and no majority agrees"
        return _row(check, "fail", found, hint)
    same = [h for h in raft.get("health", []) if h["state"] == "same"]
    return _row(check, "ok", f"the same on {len(same) + 1} members")


def _rooms(raft: dict[str, Any], names: dict[str, str]) -> Row:
    full = [h for h in raft.get("health", []) if h["diskFull"]]
    shown = _names(full, names) if full else "the asked node" if raft.get("diskFull") else ""
    if shown:
        return _row("members' disks", "fail", f"full: {shown}", "free space there")
    return _row("members' disks", "ok", "all have room")


def _backlog(raft: dict[str, Any], names: dict[str, str]) -> Row:
    last = int(raft.get("lastIndex", 0))
    behind = last - int(raft.get("appliedIndex", 0))
    pending = int(raft.get("pendingProposals", 0))
    late = [
        h
        for h in raft.get("health", [])
        if h["answered"] and last - int(h["lastIndex"]) > BACKLOG_GOOD
    ]
    found = f"{behind} entries to apply, {pending} writes wait"
    if late or behind > BACKLOG_GOOD or pending > BACKLOG_GOOD // 10:
        found += f"; far behind: {_names(late, names)}" if late else ""
        return _row("backlog", "warn", found, "a slow disk or link; see the other rows there")
    return _row("backlog", "ok", found)


def _versions(versions: tuple[str, str], level: int) -> Row:
    mine, daemons = versions
    if mine != daemons:
        hint = "restart the daemon with the version that is installed"
        return _row("versions", "warn", f"program {mine}, daemon {daemons}", hint)
    return _row("versions", "ok", f"{mine}, feature level {level}")


def unanswered(error: BlixardError) -> Row:
    """Return the row of a daemon that gave no answer."""
    return _row("daemon", "fail", error.message, "blixard node run, or its systemd unit; its log")
