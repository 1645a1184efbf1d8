"""Named random streams from one root seed: a draw more in one does not shift the others."""

from __future__ import annotations

import hashlib
import random


class Streams:
    """The root; :meth:`get` gives one generator per name and call."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def get(self, name: str) -> random.Random:
        """Return a fresh generator for *name*, the same for the same seed and name."""
        digest = hashlib.blake2b(f"{self.seed}/{name}".encode(), digest_size=16).digest()
        return random.Random(int.from_bytes(digest, "big"))
