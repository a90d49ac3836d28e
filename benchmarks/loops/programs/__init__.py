"""The table of programs, in the order in which they are run and printed."""

from benchmarks.loops.program import Program
from benchmarks.loops.programs import (
    biquads,
    bouncing_ball,
    cholesky,
    floyd_warshall,
    gauss_seidel,
    growth,
    heat,
    kepler,
    levinson,
    lotka_volterra,
    lstm,
    rnn,
)

PROGRAMS: tuple[Program, ...] = (
    growth.PROGRAM,
    lotka_volterra.PROGRAM,
    rnn.PROGRAM,
    lstm.PROGRAM,
    biquads.PROGRAM,
    gauss_seidel.PROGRAM,
    heat.PROGRAM,
    kepler.PROGRAM,
    cholesky.PROGRAM,
    floyd_warshall.PROGRAM,
    bouncing_ball.PROGRAM,
    levinson.PROGRAM,
)
