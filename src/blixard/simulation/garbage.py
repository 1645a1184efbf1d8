"""Garbage is collected between runs, never in the middle of one."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Collect nothing but what the code inside asks for."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@functools.cache
def freeze() -> None:
    """Look no more at what was imported: collections would mostly walk through that.

    To be called while no run exists, for what it freezes is never freed.
    """
    gc.collect()
    gc.freeze()
