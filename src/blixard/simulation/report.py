"""What a run is, and what came out of it."""

from __future__ import annotations

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is; together with the code, it decides every event."""

    seed: int
    nodes: int = 5
    duration_s: float = 60.0
    clients: int = 5
    node: bool = False

    def command(self) -> str:
        """Return the command line that repeats the run."""
        return (
            f"blixard sim run --seed {self.seed} --nodes {self.nodes} "
            f"--duration {self.duration_s:g}s --clients {self.clients}"
            f"{'' if self.node else ' --only raft'}"
        )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of a run."""

    seed: int
    nodes: int
    duration_s: float
    ok: bool
    trace_hash: str
    violations: tuple[str, ...]
    replay: str
    mode: str
    callbacks: int
    events: int
    writes: int
    reads: int
    unknown: int
    client_rate: float  # answers per client and virtual second between healing and the end
    messages: int
    faults: dict[str, int]
    guest_runs: int
    stops: int
    replaced: int
    virtual_s: float  # with what follows on the duration: settling, and a power loss of all
    wall_s: float
