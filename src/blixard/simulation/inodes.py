"""Files and directories of a simulated disk: as read, as durable, and the changes in between.

What a crash makes of a change that is not durable yet is drawn here: it may be lost, torn or kept.
"""

from __future__ import annotations

import random

SECTORS = (512, 4096)
MISDIRECTED_BYTES = 4096
_APPLIED, _TORN, _ZEROED = 0.4, 0.2, 0.05  # the rest is lost

Operation = tuple[int, bytes | None]  # (offset, data), or (new size, None)


def apply_operation(image: bytearray, operation: Operation) -> None:
    """Write or truncate; a gap before the written bytes reads as zeros."""
    offset, data = operation
    size = len(image)
    if data is None:
        if offset < size:
            del image[offset:]
        else:
            image.extend(bytes(offset - size))
        return
    if offset > size:
        image.extend(bytes(offset - size))
    image[offset : offset + len(data)] = data


def tear(generator: random.Random, operation: Operation) -> list[Operation]:
    """Return the sectors of a write that reached the disk."""
    offset, data = operation
    if data is None:
        return [operation] if generator.random() < 0.5 else []
    sector = generator.choice(SECTORS)
    kept: list[Operation] = []
    position = 0
    while position < len(data):
        end = min(len(data), (offset + position) // sector * sector + sector - offset)
        if generator.random() < 0.5:
            kept.append((offset + position, data[position:end]))
        position = end
    return kept


class FileNode:
    """One file: its bytes as read, as durable, and the operations between the two."""

    __slots__ = ("current", "done", "durable", "pending", "solid")

    def __init__(self) -> None:
        self.solid = 0  # bytes that were durable before the last sync
        self.current = bytearray()
        self.durable = bytearray()
        self.pending: list[Operation] = []
        self.done = 0  # operations that have left ``pending``

    def write(self, operation: Operation) -> None:
        """Change what is read; durable later."""
        apply_operation(self.current, operation)
        self.pending.append(operation)

    def persist(self, until: int) -> None:
        """Make the first *until* operations ever made durable."""
        count = until - self.done
        if count <= 0:
            return
        self.solid = self.pending[0][0]
        for operation in self.pending[:count]:
            apply_operation(self.durable, operation)
        del self.pending[:count]
        self.done = until

    def crash(self, generator: random.Random) -> None:
        """Decide what each pending operation left behind."""
        for operation in self.pending:
            fate = generator.random()
            if fate < _APPLIED:
                apply_operation(self.durable, operation)
            elif fate < _APPLIED + _TORN:
                for piece in tear(generator, operation):
                    apply_operation(self.durable, piece)
            elif fate < _APPLIED + _TORN + _ZEROED:
                # The new size reached the disk, the bytes did not.
                size = operation[0] + len(operation[1] or b"")
                self.durable.extend(bytes(max(0, size - len(self.durable))))
        self.done += len(self.pending)
        self.pending.clear()
        self.current = bytearray(self.durable)

    def lose_unsynced(self) -> None:
        """Forget all that is pending."""
        self.done += len(self.pending)
        self.pending.clear()
        self.current = bytearray(self.durable)

    def misdirect(self, operation: Operation) -> None:
        """Write where it was asked as far as reads can tell, and too early in the file really."""
        apply_operation(self.current, operation)
        self.pending.append((operation[0] - MISDIRECTED_BYTES, operation[1]))

    def drop(self, until: int) -> None:
        """A sync failed: what it should have written counts as clean, and is never written."""
        count = until - self.done
        if count > 0:
            del self.pending[:count]
            self.done = until


class DirectoryNode:
    """One directory: its names as seen, as durable, and the changes between the two."""

    __slots__ = ("current", "done", "durable", "pending")

    def __init__(self) -> None:
        self.current: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.pending: list[tuple[str, Node | None, str]] = []  # (name, node or gone, old name)
        self.done = 0

    def change(self, name: str, node: Node | None, source: str = "") -> None:
        """Set or remove a name; *source* is the old name in this directory, if it was moved."""
        change = (name, node, source)
        _apply_change(self.current, change)
        self.pending.append(change)

    def persist(self, until: int) -> None:
        """Make the first *until* changes ever made durable."""
        count = until - self.done
        if count <= 0:
            return
        for change in self.pending[:count]:
            _apply_change(self.durable, change)
        del self.pending[:count]
        self.done = until

    def crash(self, generator: random.Random) -> None:
        """Keep or lose each pending change, then do the same below."""
        for change in self.pending:
            if generator.random() < 0.5:
                _apply_change(self.durable, change)
        self.done += len(self.pending)
        self.pending.clear()
        self.current = dict(self.durable)
        for name in sorted(self.current):
            self.current[name].crash(generator)

    def lose_unsynced(self) -> None:
        """Forget all that is pending, here and below."""
        self.done += len(self.pending)
        self.pending.clear()
        self.current = dict(self.durable)
        for name in sorted(self.current):
            self.current[name].lose_unsynced()


Node = FileNode | DirectoryNode


def _apply_change(names: dict[str, Node], change: tuple[str, Node | None, str]) -> None:
    name, node, source = change
    if source:
        names.pop(source, None)
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node
