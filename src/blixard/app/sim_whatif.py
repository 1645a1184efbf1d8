"""``blixard sim run --from-snapshot``: what happens if these nodes of a live cluster die."""

from __future__ import annotations

import pathlib

import msgspec

from blixard.base.errors import BlixardError
from blixard.cli import tables
from blixard.simulation.exported import read_exported
from blixard.simulation.fates import Answer, Row
from blixard.simulation.whatif import what_if

_BYTES_MAX = 256 << 20
_HEADING = ("INSTANCE", "WAS ON", "THEN", "ON", "AFTER", "PARTITION", "WHY")


def play(file: str, *, kill: str, seed: int, for_s: float) -> Answer:
    """Return what happens to the cluster in *file* if the nodes *kill*, joined by commas, die.

    Raises:
        BlixardError: INVALID, NOT_FOUND, TOO_LARGE, USAGE.
    """
    names = tuple(name.strip() for name in kill.split(",") if name.strip())
    if not names:
        raise BlixardError("USAGE", "--from-snapshot needs --kill NODE[,NODE...]")
    return what_if(read_exported(_read(file)), names, seed=seed, for_s=for_s)


def _read(file: str) -> str:
    path = pathlib.Path(file)
    try:
        if path.stat().st_size > _BYTES_MAX:
            raise BlixardError("TOO_LARGE", f"{file}: more than {_BYTES_MAX >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BlixardError("INVALID", f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BlixardError("INVALID", f"{file}: no text: {error}") from error


def document(answer: Answer) -> str:
    """Return the answer as JSON."""
    return msgspec.json.encode(answer).decode()


def shown(answer: Answer) -> str:
    """Return the answer for people: a sentence about the quorum, then what changed."""
    changed = [row for row in answer.instances if row.outcome != "runs on"]
    lines = [answer.says]
    if not answer.quorum.voters_known:
        lines.append("(who votes is assumed: the file has no answer of cluster status)")
    for name, lost_s in answer.killed.items():
        noticed = f"lost after {lost_s:.1f} s" if lost_s is not None else "never known to be lost"
        lines.append(f"{name}: {noticed}")
    if changed:
        several = len({row.namespace for row in changed}) > 1
        cells = [_cells(row, several) for row in changed]
        lines += ["", tables.render(_HEADING, cells, cells=None).rstrip(), ""]
    lines.append(f"{len(answer.instances) - len(changed)} of {len(answer.instances)} instances "
                 f"run on where they were; {_short(answer)}")  # fmt: skip
    lines.append(f"watched for {answer.for_s:g} s of virtual time, seed {answer.seed}")
    return "\n".join(lines)


def _cells(row: Row, several: bool) -> list[str]:
    after = row.back_after_s if row.on else row.down_after_s if row.outcome == "stopped" else None
    return [
        f"{row.namespace}/{row.name}" if several else row.name,
        row.was_on or "-",
        row.outcome,
        row.on or "-",
        f"{after:.1f} s" if after is not None else "-",
        row.partition,
        row.why,
    ]


def _short(answer: Answer) -> str:
    short = [vm for vm in answer.vms if vm.after < vm.wanted]
    if not short:
        return "every VM has all its replicas"
    return "too few replicas: " + ", ".join(f"{vm.name} {vm.after}/{vm.wanted}" for vm in short)
