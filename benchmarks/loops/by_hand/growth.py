"""Logistic growth up to a threshold. The number of iterations is not known before."""

import numpy as np
from numba import njit

ENOUGH = 0.9


@njit
def forward(population, rate):
    """The loss."""
    consumed = 0.0
    while population < ENOUGH:
        consumed += rate * population
        population += rate * population * (1.0 - population)
    return consumed + population


@njit
def _record(population, rate, history, count):
    """Iterate until the end or until `history` is full; the population and the number kept."""
    while population < ENOUGH and count < history.size:
        history[count] = population
        count += 1
        population += rate * population * (1.0 - population)
    return population, count


@njit
def gradient(population, rate):
    """The loss and its derivatives by start and rate. Keeps the population of each iteration."""
    history = np.empty(4096)
    population, count = _record(population, rate, history, 0)
    while population < ENOUGH:
        longer = np.empty(2 * count)
        longer[:count] = history
        history = longer
        population, count = _record(population, rate, history, count)
    # What is consumed is linear in the populations, so that their sum is all it needs.
    total = 0.0
    by_population = 1.0
    by_rate = 0.0
    for before in history[:count][::-1]:
        total += before
        by_rate += by_population * before * (1.0 - before)
        by_population = by_population * (1.0 + rate * (1.0 - 2.0 * before)) + rate
    return rate * total + population, by_population, by_rate + total
