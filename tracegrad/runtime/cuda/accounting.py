"""How much of a device's memory arrays hold."""

from __future__ import annotations

import threading


class Accounting:
    """Bytes that are held now, and the most there have been."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.used = 0
        self.peak = 0

    def take(self, count: int) -> None:
        """So many more are held."""
        with self._lock:
            self.used += count
            self.peak = max(self.peak, self.used)

    def give_back(self, count: int) -> None:
        """So many are not held any more."""
        with self._lock:
            self.used -= count

    def reset_peak(self) -> None:
        """The most is what is held now."""
        with self._lock:
            self.peak = self.used
