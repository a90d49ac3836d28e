"""A long random session: views, in-place operations, modes and backward, one beside the other here
and in PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

import tracegrad as tg
from tests.reference.test_autograd_torch import (
    WRITES,
    Step,
    attempt,
    leaves,
    numbers,
    steps,
    target,
)

ERRORS = (RuntimeError, IndexError, ValueError, TypeError)
# A session ends up with no more tensors than this: each is compared after each step.
MOST = 20
STEPS = 10_000

performed = 0


class Session(RuleBasedStateMachine):
    """The same tensors in two systems, changed by the same steps."""

    def __init__(self) -> None:
        super().__init__()
        self.theirs: list[Any] = leaves(torch)
        self.ours: list[Any] = leaves(tg)
        # All leaves that may have a gradient, also those that were overwritten in the lists.
        self.variables = list(zip(self.theirs, self.ours, strict=True))

    def both(self, change: Any) -> bool:
        """Make a change in PyTorch, and if that was possible here too."""
        global performed
        performed += 1
        try:
            change(torch, self.theirs)
        except ERRORS:
            del self.theirs[len(self.ours) :]
            return False
        change(tg, self.ours)
        return True

    @rule(step=steps)
    def operation(self, step: Step) -> None:
        if len(self.ours) < MOST or step.kind in WRITES:
            self.perform(step)

    @rule(step=steps)
    def operation_without_gradient(self, step: Step) -> None:
        # Views are left out: one of a tensor with gradient says in PyTorch that it has one too, and
        # then gets none.
        if step.kind in WRITES or (step.kind in ("unary", "binary") and len(self.ours) < MOST):
            with torch.no_grad(), tg.no_grad():
                self.perform(step)

    def perform(self, step: Step) -> None:
        global performed
        performed += 1
        if step.kind in WRITES and 0 in self.theirs[target(step, self.theirs)].stride():
            # PyTorch lets some operations write to a repeated element, others not.
            return
        if attempt(torch, self.theirs, step):
            assert attempt(tg, self.ours, step), f"{step} runs in PyTorch only"
        if step.kind == "binary" and self.theirs[-1].stride() != self.ours[-1].stride():
            # Of operands with axes in different orders. What is a view of it would be a copy there.
            self.theirs.pop()
            self.ours.pop()

    @rule(a=numbers, b=numbers)
    def diagonal(self, a: int, b: int) -> None:
        def change(module: Any, tensors: list[Any]) -> None:
            tensors.append(tensors[a % len(tensors)].diagonal(b % 3 - 1))

        self.both(change)

    @rule(a=numbers, b=numbers, c=numbers)
    def narrow(self, a: int, b: int, c: int) -> None:
        def change(module: Any, tensors: list[Any]) -> None:
            x = tensors[a % len(tensors)]
            tensors.append(x.narrow(b % max(x.ndim, 1), c % 2, 1 + c % 3))

        self.both(change)

    @rule(a=numbers)
    def write_through_data(self, a: int) -> None:
        def change(module: Any, tensors: list[Any]) -> None:
            x = tensors[a % len(tensors)]
            if 0 not in x.stride():
                x.data.mul_(0.5)

        self.both(change)

    @rule(a=numbers, value=st.floats(-1, 1))
    def write_through_numpy(self, a: int, value: float) -> None:
        def change(module: Any, tensors: list[Any]) -> None:
            x = tensors[a % len(tensors)]
            if 0 not in x.stride():
                x.detach().numpy()[...] *= value

        self.both(change)

    @precondition(lambda self: len(self.ours) < MOST)
    @rule(a=numbers)
    def new_leaf(self, a: int) -> None:
        # Not of what has views: they say in PyTorch that they have a gradient, and get none.
        def change(module: Any, tensors: list[Any]) -> None:
            tensors.append(tensors[a % len(tensors)].detach().clone().requires_grad_())

        self.both(change)
        self.variables.append((self.theirs[-1], self.ours[-1]))

    @rule(a=numbers)
    def leave_the_tape(self, a: int) -> None:
        self.both(lambda module, tensors: tensors[a % len(tensors)].detach_())

    @precondition(lambda self: len(self.ours) > 6)
    @rule(a=numbers)
    def forget(self, a: int) -> None:
        def change(module: Any, tensors: list[Any]) -> None:
            del tensors[a % len(tensors)]

        self.both(change)

    @rule(a=numbers, keep=st.booleans(), seed=numbers)
    def backward(self, a: int, keep: bool, seed: int) -> None:
        def change(module: Any, tensors: list[Any]) -> None:
            x = tensors[a % len(tensors)]
            weight = np.random.default_rng(seed).uniform(-1, 1, tuple(x.shape))
            x.backward(module.from_numpy(weight), retain_graph=keep)

        global performed
        performed += 1
        try:
            change(torch, self.theirs)
        except ERRORS:
            # Some values that were changed in place PyTorch refuses, and here they are copies.
            self.clear()
            return
        change(tg, self.ours)
        for theirs, ours in self.variables:
            if not theirs.is_leaf:
                continue
            expected, found = theirs.grad, ours.grad
            if expected is None or found is None:
                other = found if expected is None else expected
                assert other is None or not other.detach().numpy().any()
            else:
                np.testing.assert_allclose(
                    found.detach().numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12
                )

    @rule()
    def clear(self) -> None:
        for pair in self.variables:
            for x in pair:
                if x.is_leaf:
                    x.grad = None

    @invariant()
    def the_same(self) -> None:
        for x, y in zip(self.theirs, self.ours, strict=True):
            assert tuple(x.shape) == tuple(y.shape)
            assert x.stride() == y.stride() or 0 in x.shape or 1 in x.shape
            np.testing.assert_allclose(y.detach().numpy(), x.detach().numpy(), rtol=1e-11)
            assert x.requires_grad == y.requires_grad
            assert x.is_leaf == y.is_leaf


def test_a_session_of_many_steps() -> None:
    rounds = settings(
        max_examples=300,
        stateful_step_count=60,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
    )
    run_machine(Session, settings=rounds)
    assert performed >= STEPS
