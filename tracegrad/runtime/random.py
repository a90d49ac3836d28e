"""The state of the random generator: a seed and how many numbers were drawn from it.

A draw of n elements takes the counters offset .. offset + n - 1, so that the stream does not depend
on how it is cut into draws, and the same numbers come again when the state is put back.
"""

from __future__ import annotations

import secrets
import threading

_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """`value` modulo 2**64 as the signed 64-bit number with the same bits."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


class Generator:
    """A stream of random numbers.

    chosen  how often its state was chosen, as it is by a seed.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._lock = threading.Lock()
        self.seed = _signed(secrets.randbits(64) if seed is None else seed)
        self.offset = 0
        self.chosen = 0

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed` from its beginning."""
        with self._lock:
            self.seed = _signed(seed)
            self.offset = 0
            self.chosen += 1
        return self

    def initial_seed(self) -> int:
        """The seed of the stream."""
        return self.seed

    def advance(self, count: int) -> tuple[int, int]:
        """The seed and the first offset of a draw of `count` elements, which is thereby taken."""
        with self._lock:
            offset = self.offset
            self.offset = _signed(offset + count)
            return self.seed, offset

    def get_state(self) -> tuple[int, int]:
        """Seed and offset."""
        with self._lock:
            return self.seed, self.offset

    def set_state(self, state: tuple[int, int]) -> None:
        """Go to a seed and offset that `get_state` gave."""
        with self._lock:
            self.seed, self.offset = state
            self.chosen += 1

    def go_back(self, state: tuple[int, int]) -> None:
        """Go to a state that `get_state` gave, of which no program is to know."""
        with self._lock:
            self.seed, self.offset = state


default_generator = Generator()
