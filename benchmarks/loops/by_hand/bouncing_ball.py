"""A bouncing ball with events."""

import numpy as np
from numba import njit

STEP = 1e-3
GRAVITY = 9.81
HEIGHT = 1.0
TARGET = 3.0


@njit
def forward(speed, rise, restitution, drag, steps):
    """The loss."""
    x = 0.0
    y = HEIGHT
    for _ in range(steps):
        speed -= STEP * drag * speed
        rise -= STEP * (GRAVITY + drag * rise)
        x += STEP * speed
        before = y
        y += STEP * rise
        if y < 0.0:
            left = y / (y - before)
            rise = -restitution * rise
            y = left * STEP * rise
    return (x - TARGET) ** 2 + y**2


@njit
def gradient(speed, rise, restitution, drag, steps):
    """The loss and its four derivatives. Keeps height and both speeds of each step."""
    x = 0.0
    y = HEIGHT
    heights = np.empty(steps)
    speeds = np.empty(steps)
    rises = np.empty(steps)
    for t in range(steps):
        heights[t] = y
        speeds[t] = speed
        rises[t] = rise
        speed -= STEP * drag * speed
        rise -= STEP * (GRAVITY + drag * rise)
        x += STEP * speed
        before = y
        y += STEP * rise
        if y < 0.0:
            left = y / (y - before)
            rise = -restitution * rise
            y = left * STEP * rise
    value = (x - TARGET) ** 2 + y**2

    g_x = 2.0 * (x - TARGET)
    g_y = 2.0 * y
    g_speed = g_rise = by_restitution = by_drag = 0.0
    for t in range(steps - 1, -1, -1):
        before = heights[t]
        rise = rises[t] - STEP * (GRAVITY + drag * rises[t])
        y = before + STEP * rise
        g_before = 0.0
        if y < 0.0:
            span = y - before
            left = y / span
            g_rise += g_y * left * STEP
            g_left = g_y * STEP * -restitution * rise
            by_restitution -= g_rise * rise
            g_rise *= -restitution
            g_y = g_left * (1.0 - left) / span
            g_before = g_left * left / span
        g_rise += g_y * STEP
        g_y += g_before
        g_speed += g_x * STEP
        by_drag -= STEP * (g_speed * speeds[t] + g_rise * rises[t])
        g_speed *= 1.0 - STEP * drag
        g_rise *= 1.0 - STEP * drag
    return value, g_speed, g_rise, by_restitution, by_drag
