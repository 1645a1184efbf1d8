"""A host's clocks: boot time with offset and drift, wall time that may step."""

from __future__ import annotations

BILLION = 1_000_000_000
WALL_EPOCH_MS = 1_800_000_000_000  # the virtual world begins in January 2027


class HostClock:
    """Maps the world's nanoseconds to the host's; ``drift_ppb`` is parts per billion.

    CLOCK_BOOTTIME starts again from *offset_ns* at each boot; CLOCK_MONOTONIC, the clock of the
    event loop, lags behind it by ``asleep_ns``: it stands still while the host is suspended.
    """

    __slots__ = (
        "_base_ns", "_frozen_ms", "_off_ms", "_wall_ms", "_world_ns_per_s", "asleep_ns",
        "drift_ppb", "offset_ns",
    )  # fmt: skip

    def __init__(self, *, base_ns: int = 0, offset_ns: int = 0, drift_ppb: int = 0) -> None:
        self._base_ns = base_ns
        self.offset_ns = offset_ns
        self.asleep_ns = 0
        self.drift_ppb = drift_ppb
        self._world_ns_per_s = BILLION / (1 + drift_ppb / BILLION)
        self._wall_ms = WALL_EPOCH_MS + base_ns // 1_000_000
        self._frozen_ms: int | None = None
        self._off_ms = 0

    def boottime_ns(self, now_ns: int) -> int:
        """Return the host's nanoseconds at the world's *now_ns*."""
        elapsed = now_ns - self._base_ns
        return self.offset_ns + elapsed + elapsed * self.drift_ppb // BILLION

    def monotonic_ns(self, now_ns: int) -> int:
        """Return the host's CLOCK_MONOTONIC at the world's *now_ns*."""
        elapsed = now_ns - self._base_ns
        return self.offset_ns - self.asleep_ns + elapsed + elapsed * self.drift_ppb // BILLION

    def slept(self, since_ns: int, until_ns: int) -> None:
        """The host was suspended between two times of the world."""
        self.asleep_ns += self.boottime_ns(until_ns) - self.boottime_ns(since_ns)

    def wall_ms(self, now_ns: int) -> int:
        """Return the host's Unix milliseconds."""
        if self._frozen_ms is not None:
            return self._frozen_ms
        since_boot_ms = (self.boottime_ns(now_ns) - self.offset_ns) // 1_000_000
        return self._wall_ms + self._off_ms + since_boot_ms

    def step_wall(self, milliseconds: int) -> None:
        """Set the wall clock forward or back; boot time does not notice."""
        self._wall_ms += milliseconds

    def put_wall_off(self, milliseconds: int) -> None:
        """The wall clock is so far off from now on, until healed or put right with 0."""
        self._off_ms = milliseconds

    def freeze_wall(self, now_ns: int) -> None:
        """The wall clock stands still; boot time goes on."""
        self._frozen_ms = self.wall_ms(now_ns)

    def heal(self) -> None:
        """The wall clock goes again, and shows the time it would have shown."""
        self._frozen_ms = None
        self._off_ms = 0

    def world_delay_ns(self, delay_s: float) -> int:
        """Return how long the world must wait until *delay_s* have passed on this host."""
        if delay_s <= 0:
            return 0
        return int(delay_s * self._world_ns_per_s + 0.5) or 1

    def world_at_ns(self, host_ns: int) -> int:
        """Return the first time of the world at which CLOCK_BOOTTIME shows *host_ns*."""
        elapsed = host_ns - self.offset_ns
        return self._base_ns - (-elapsed * BILLION // (BILLION + self.drift_ppb))
