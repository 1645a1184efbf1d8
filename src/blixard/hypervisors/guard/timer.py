"""A timer on CLOCK_BOOTTIME as a descriptor: it also fires when a suspend ends after its time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

_CLOCK_BOOTTIME, _TFD_TIMER_ABSTIME = 7, 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Spec(ctypes.Structure):
    """``struct itimerspec``: interval, then first expiry, each in seconds and nanoseconds."""

    _fields_ = tuple(
        (name, ctypes.c_long) for name in ("interval_s", "interval_ns", "first_s", "first_ns")
    )


class BootTimer:
    """Becomes readable at the time set."""

    def __init__(self) -> None:
        self.descriptor = _LIBC.timerfd_create(_CLOCK_BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._set_ns = 0

    def set(self, at_ns: int) -> None:
        """Fire at *at_ns*; 0 is never."""
        if at_ns == self._set_ns:
            return
        spec = _Spec(0, 0, at_ns // 10**9, at_ns % 10**9)
        if _LIBC.timerfd_settime(self.descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        self._set_ns = at_ns

    def drain(self) -> None:
        """Take note that it fired."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 8)


def boottime_ns() -> int:
    """Return nanoseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
