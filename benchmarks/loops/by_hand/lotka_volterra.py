"""Lotka and Volterra's equations by the Runge-Kutta method of order 4."""

import numpy as np
from numba import njit

STEP = 0.05
PREY_SEEN = 1.0
PREDATORS_SEEN = 2.0


@njit(inline="always")
def rates(birth, hunt, death, feed, x, y):
    """The time derivatives of prey and predators."""
    return birth * x - hunt * x * y, feed * x * y - death * y


@njit(inline="always")
def stages(birth, hunt, death, feed, x, y):
    """The derivatives at the four stages of a step."""
    x1, y1 = rates(birth, hunt, death, feed, x, y)
    x2, y2 = rates(birth, hunt, death, feed, x + 0.5 * STEP * x1, y + 0.5 * STEP * y1)
    x3, y3 = rates(birth, hunt, death, feed, x + 0.5 * STEP * x2, y + 0.5 * STEP * y2)
    x4, y4 = rates(birth, hunt, death, feed, x + STEP * x3, y + STEP * y3)
    return x1, y1, x2, y2, x3, y3, x4, y4


@njit
def forward(birth, hunt, death, feed, x, y, steps):
    """The loss."""
    for _ in range(steps):
        x1, y1, x2, y2, x3, y3, x4, y4 = stages(birth, hunt, death, feed, x, y)
        x += STEP / 6.0 * (x1 + 2.0 * x2 + 2.0 * x3 + x4)
        y += STEP / 6.0 * (y1 + 2.0 * y2 + 2.0 * y3 + y4)
    return (x - PREY_SEEN) ** 2 + (y - PREDATORS_SEEN) ** 2


@njit(inline="always")
def pulled_back(birth, hunt, death, feed, x, y, gx, gy):
    """The cotangent of a state, given that of its time derivatives."""
    return (
        gx * (birth - hunt * y) + gy * feed * y,
        -gx * hunt * x + gy * (feed * x - death),
    )


@njit
def gradient(birth, hunt, death, feed, x, y, steps):
    """The loss and its six derivatives. Keeps the states and computes the stages again."""
    xs = np.empty(steps)
    ys = np.empty(steps)
    for i in range(steps):
        xs[i] = x
        ys[i] = y
        x1, y1, x2, y2, x3, y3, x4, y4 = stages(birth, hunt, death, feed, x, y)
        x += STEP / 6.0 * (x1 + 2.0 * x2 + 2.0 * x3 + x4)
        y += STEP / 6.0 * (y1 + 2.0 * y2 + 2.0 * y3 + y4)
    value = (x - PREY_SEEN) ** 2 + (y - PREDATORS_SEEN) ** 2

    gx = 2.0 * (x - PREY_SEEN)
    gy = 2.0 * (y - PREDATORS_SEEN)
    by_birth = by_hunt = by_death = by_feed = 0.0
    for i in range(steps - 1, -1, -1):
        x = xs[i]
        y = ys[i]
        x1, y1, x2, y2, x3, y3, _, _ = stages(birth, hunt, death, feed, x, y)
        # Cotangents of the four stages, the last one first; then of the states they start from.
        gx4 = STEP / 6.0 * gx
        gy4 = STEP / 6.0 * gy
        u4 = x + STEP * x3
        v4 = y + STEP * y3
        ax4, ay4 = pulled_back(birth, hunt, death, feed, u4, v4, gx4, gy4)
        gx3 = STEP / 3.0 * gx + STEP * ax4
        gy3 = STEP / 3.0 * gy + STEP * ay4
        u3 = x + 0.5 * STEP * x2
        v3 = y + 0.5 * STEP * y2
        ax3, ay3 = pulled_back(birth, hunt, death, feed, u3, v3, gx3, gy3)
        gx2 = STEP / 3.0 * gx + 0.5 * STEP * ax3
        gy2 = STEP / 3.0 * gy + 0.5 * STEP * ay3
        u2 = x + 0.5 * STEP * x1
        v2 = y + 0.5 * STEP * y1
        ax2, ay2 = pulled_back(birth, hunt, death, feed, u2, v2, gx2, gy2)
        gx1 = STEP / 6.0 * gx + 0.5 * STEP * ax2
        gy1 = STEP / 6.0 * gy + 0.5 * STEP * ay2
        ax1, ay1 = pulled_back(birth, hunt, death, feed, x, y, gx1, gy1)
        by_birth += gx1 * x + gx2 * u2 + gx3 * u3 + gx4 * u4
        by_hunt -= gx1 * x * y + gx2 * u2 * v2 + gx3 * u3 * v3 + gx4 * u4 * v4
        by_death -= gy1 * y + gy2 * v2 + gy3 * v3 + gy4 * v4
        by_feed += gy1 * x * y + gy2 * u2 * v2 + gy3 * u3 * v3 + gy4 * u4 * v4
        gx += ax1 + ax2 + ax3 + ax4
        gy += ay1 + ay2 + ay3 + ay4
    return value, by_birth, by_hunt, by_death, by_feed, gx, gy
