"""Integers as sums of other integers, and the bounds that follow from what those are bounded by.

The position of a loop is below the loop's limit, which may be a sum of positions further out: in
`for j in range(n)`, `for i in range(j + 1, n)` the index `i` is `j + 1 + p` with p < n - (j + 1),
so it is below n. Intervals alone cannot tell, since j and p may not both be large at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

_ages = itertools.count()

# A sum of more symbols than this is not looked into.
_TERMS = 8


@dataclass(frozen=True, eq=False, slots=True)
class Symbol:
    """An integer that is not known as a sum of others: one at a time, wherever it is read.

    It is between `low` and `high`, at least each of `least` and at most each of `most`, which are
    sums of older symbols.
    """

    low: int
    high: int
    least: tuple[Linear, ...] = ()
    most: tuple[Linear, ...] = ()
    age: int = field(default_factory=lambda: next(_ages))


@dataclass(frozen=True, eq=False, slots=True)
class Linear:
    """`constant + sum(symbol * factor)`, without wrapping around."""

    constant: int
    terms: Mapping[Symbol, int] = field(default_factory=dict)

    @classmethod
    def of(cls, symbol: Symbol) -> Linear:
        """A symbol by itself."""
        return cls(0, {symbol: 1})

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        """`self + other * factor`."""
        terms = dict(self.terms)
        for symbol, times in other.terms.items():
            total = terms.pop(symbol, 0) + times * factor
            if total:
                terms[symbol] = total
        return Linear(self.constant + other.constant * factor, terms)

    @property
    def is_short(self) -> bool:
        """Whether its bounds are worth looking for."""
        return len(self.terms) <= _TERMS

    def greatest(self) -> int:
        """An upper bound."""
        if not self.terms:
            return self.constant
        # The bounds of a symbol are older than itself, so that this comes to an end.
        newest = max(self.terms, key=lambda symbol: symbol.age)
        factor = self.terms[newest]
        rest = self.plus(Linear.of(newest), -factor)
        bound, sums = (newest.high, newest.most) if factor > 0 else (newest.low, newest.least)
        found = rest.greatest() + factor * bound
        for sum in sums:
            other = rest.plus(sum, factor)
            if other.is_short:
                found = min(found, other.greatest())
        return found

    def smallest(self) -> int:
        """A lower bound."""
        return -Linear(0).plus(self, -1).greatest()
