"""The rows that the engine hands out; see native/."""

from __future__ import annotations

from blixard.consensus.saving import Frames

# (index, term, is a change of members, token of this incarnation or 0, data)
Entries = list[tuple[int, int, bool, int, bytes]]
# (role, term, leader id, commit index, last index, wants a snapshot)
Outlook = tuple[str, int, int, int, int, bool]
# (number, group, last index, snapshot, send now, send after, offers, committed, reads)
Ready = tuple[
    int,
    bytes,
    int,
    tuple[int, int] | None,
    Frames,
    Frames,
    list[tuple[int, int, int, bytes]],
    Entries,
    list[tuple[int, int]],
]
