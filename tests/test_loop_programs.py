"""The programs of the loop benchmarks say the same in each system, at a small size.

The adjoints written by hand are what the speed of ours is measured against, so they are held
against central differences here, and the plain loops against them, eagerly and compiled.
"""

import math

import numpy as np
import pytest

import tracegrad as tg
from benchmarks.loops.program import EXPLICIT, JAX, NUMBA, PLAIN
from benchmarks.loops.programs import PROGRAMS

# Enough for every path of the program, small enough to run without compilation.
SIZES = {
    "while": 12,
    "Lotka-Volterra": 4,
    "RNN": 3,
    "LSTM": 3,
    "60 scalar carries": 5,
    "Gauss-Seidel": 4,
    "heat equation": 3,
    "Newton's iteration": 20,
    "Cholesky": 4,
    "Floyd-Warshall": 5,
    "bouncing ball": 600,
    "Levinson-Durbin": 4,
}

each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)


def as_float64(value):
    """An argument in double precision, in which differences are worth something."""
    return value if isinstance(value, int) else value.astype(np.float64)


def small_arguments(program):
    arguments = program.inputs(np.random.default_rng(1), SIZES[program.name])
    return [tuple(map(as_float64, each)) for each in arguments]


def leaves(result):
    """Value and gradients as one list of arrays."""
    if isinstance(result, (tuple, list)):
        return [leaf for part in result for leaf in leaves(part)]
    return [np.asarray(result.numpy() if isinstance(result, tg.Tensor) else result)]


def outcome(program, key, part, function, arguments):
    return leaves(program.call(key, part, function, [arguments])())


def assert_same(found, expected, rtol=1e-9):
    assert len(found) == len(expected)
    for ours, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, right, rtol=rtol, atol=1e-11 * np.abs(right).max())


@each_program
def test_the_adjoint_by_hand_agrees_with_differences(program):
    functions = program.functions(NUMBA.key)
    rng = np.random.default_rng(2)
    for arguments in small_arguments(program):
        value, *gradients = outcome(
            program, NUMBA.key, "gradient", functions["gradient"], arguments
        )
        assert len(gradients) == len(program.parameters)

        def loss(arguments, call=functions["forward"]):
            return outcome(program, NUMBA.key, "forward", call, arguments)[0]

        assert loss(arguments) == pytest.approx(value, rel=1e-13)
        for place, gradient in zip(program.parameters, gradients, strict=True):
            # One random direction of each parameter.
            direction = rng.normal(size=arguments[place].shape)
            step = 1e-6

            def moved(sign, place=place, shift=step * direction, arguments=arguments):
                new = list(arguments)
                new[place] = arguments[place] + sign * shift
                return tuple(new)

            slope = (loss(moved(1)) - loss(moved(-1))) / (2 * step)
            assert np.sum(gradient * direction) == pytest.approx(slope, rel=2e-6, abs=1e-8)


@each_program
def test_the_plain_loop_agrees_with_the_adjoint_by_hand(program):
    by_hand = program.functions(NUMBA.key)["gradient"]
    eager = tg.value_and_grad(program.plain, argnums=program.parameters)
    for arguments in small_arguments(program)[:2]:
        expected = outcome(program, NUMBA.key, "gradient", by_hand, arguments)
        assert_same(outcome(program, PLAIN.key, "gradient", eager, arguments), expected)


@pytest.mark.parametrize("system", [PLAIN, EXPLICIT], ids=lambda system: system.key)
@each_program
def test_compiled_loops_agree_with_the_adjoint_by_hand(program, system):
    by_hand = program.functions(NUMBA.key)["gradient"]
    compiled = program.functions(system.key)["gradient"]
    for arguments in small_arguments(program)[:2]:
        expected = outcome(program, NUMBA.key, "gradient", by_hand, arguments)
        assert_same(outcome(program, system.key, "gradient", compiled, arguments), expected)


@each_program
def test_jax_agrees_with_the_adjoint_by_hand(program):
    pytest.importorskip("jax")
    by_hand = program.functions(NUMBA.key)["gradient"]
    jitted = program.functions(JAX.key)["gradient"]
    for arguments in small_arguments(program)[:2]:
        expected = outcome(program, NUMBA.key, "gradient", by_hand, arguments)
        assert_same(outcome(program, JAX.key, "gradient", jitted, arguments), expected)


def test_the_ball_bounces_at_both_sizes():
    program = next(program for program in PROGRAMS if program.name == "bouncing ball")
    # Time to fall from 1 m with a rise of 1 m/s at first, without drag: 0.56 s.
    fall = (1.0 + math.sqrt(1.0 + 2.0 * 9.81)) / 9.81
    assert min(program.sizes) * 1e-3 > fall
