"""One HTML file that shows a run: hosts as lanes, messages as arrows, faults as bands."""

from __future__ import annotations

import importlib.resources
import json
import re

from blixard.simulation.recording import Recording

_AT = re.compile(r" at (\d+\.\d+) s")
_STATES = ("start", "kill", "crash", "pause", "resume", "freeze", "thaw", "fatal", "replace")
_UNIT_NS = 100_000  # messages are told in tenths of a millisecond


def page(recording: Recording) -> str:
    """Return the page; it needs nothing but itself."""
    template = importlib.resources.files("blixard.simulation").joinpath("timeline.html")
    data = json.dumps(document(recording), separators=(",", ":")).replace("</", "<\\/")
    return template.read_text(encoding="utf-8").replace("/*DATA*/null", data)


def document(recording: Recording) -> dict[str, object]:
    """Return what the page shows; times in milliseconds, messages in tenths of one."""
    report, options = recording.report, recording.options
    events = recording.events
    end_ms = events[-1][0] / 1e6 if events else 0.0
    return {
        "title": f"seed {options.seed}: {'ok' if report.ok else 'FAILED'}",
        "ok": report.ok,
        "replay": report.replay,
        "hash": report.trace_hash,
        "facts": {
            "writes": report.writes, "reads": report.reads, "unknown": report.unknown,
            "messages": report.messages, "guest runs": report.guest_runs,
            "callbacks": report.callbacks, "order": report.mode,
        },
        "end": end_ms,
        "heal": recording.plan.heal_at_ms,
        "hosts": [f"node-{n}" for n in range(1, options.nodes + 1)],
        "faults": [
            [f.at_ms, f.end_ms, f.kind, list(f.hosts), f.strength] for f in recording.plan.faults
        ],
        "roles": [
            [e[0] / 1e6, e[1], e[2][5:], e[3]] for e in events if e[2].startswith("role:")
        ],
        "states": [
            [e[0] / 1e6, e[1], e[2]]
            for e in events
            if e[2] in _STATES or e[2].startswith("stopped:")
        ],
        "guests": [
            [
                g.host, g.plan.instance_uid, g.plan.run, g.began_ns / 1e6,
                end_ms if g.ended_ns is None else g.ended_ns / 1e6,
            ]
            for g in recording.guests
        ],
        "violations": [_violation(text, end_ms) for text in report.violations],
        "dropped": recording.dropped,
        **_messages(recording),
    }  # fmt: skip


def _violation(text: str, end_ms: float) -> list[object]:
    match = _AT.search(text)
    return [float(match[1]) * 1000 if match else end_ms, text.strip()]


def _messages(recording: Recording) -> dict[str, object]:
    """Return the messages as rows of small numbers, by time of sending."""
    kinds: dict[str, int] = {}
    lanes = {f"node-{n}": n - 1 for n in range(1, recording.options.nodes + 1)}
    clients = len(lanes)
    rows, last = [], 0
    for message in sorted(recording.messages, key=lambda m: m.sent_ns):
        sent = message.sent_ns // _UNIT_NS
        took = (message.arrives_ns - message.sent_ns) // _UNIT_NS if message.arrives_ns else -1
        source, target = _lane(message.source, lanes), _lane(message.target, lanes)
        kind = kinds.setdefault(message.what, len(kinds))
        if source != target or source != clients:
            rows.append([sent - last, took, source, target, kind])
            last = sent
    return {"kinds": list(kinds), "messages": rows}


def _lane(uid: str, lanes: dict[str, int]) -> int:
    return lanes.get(uid.partition(".")[0], len(lanes))
