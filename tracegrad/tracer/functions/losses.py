"""Loss functions of `tracegrad.nn.functional`. `reduction` is "mean", "sum" or "none"."""

from __future__ import annotations

from tracegrad.errors import ArgumentError, DtypeError, ShapeError
from tracegrad.ir.op import OPS
from tracegrad.ir.types import int64
from tracegrad.tracer.bounds import Limits, require
from tracegrad.tracer.dispatch import apply
from tracegrad.tracer.functions.arithmetic import add, div, mul, sub
from tracegrad.tracer.functions.contraction import broadcast_tensors, reshaped
from tracegrad.tracer.functions.elementwise import neg
from tracegrad.tracer.functions.reductions import floating_only, fold, mean, sum_
from tracegrad.tracer.functions.selection import clamp_min
from tracegrad.tracer.functions.statistics import cosine_similarity, log_softmax
from tracegrad.tracer.functions.table import Decorator, register
from tracegrad.tracer.movement import axis_of
from tracegrad.tracer.promotion import promote
from tracegrad.tracer.tensor import Tensor


def _functional(*names: str) -> Decorator:
    return register(*names, function=False, method=False, functional=True)


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError(f"{reduction} is not a valid value for reduction")


def reduce(values: Tensor, reduction: str) -> Tensor:
    """The mean, the sum or the values themselves."""
    _check_reduction(reduction)
    if reduction == "none":
        return values
    return mean(values) if reduction == "mean" else sum_(values)


def _pair(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    return broadcast_tensors(*promote(floating_only(input, name), target))


def _pair_loss(
    name: str,
    input: Tensor,
    target: Tensor,
    reduction: str,
    grad_name: str | None = None,
    **params: float,
) -> Tensor:
    _check_reduction(reduction)
    operands = _pair(name, input, target)
    return apply(OPS[name], operands, {**params, "reduction": reduction}, grad_name=grad_name)


@_functional()
def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Squared differences."""
    return _pair_loss("mse_loss", input, target, reduction)


@_functional()
def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Absolute differences."""
    name = {"mean": "MeanBackward0", "sum": "SumBackward0"}.get(reduction, "AbsBackward0")
    return _pair_loss("l1_loss", input, target, reduction, name)


@_functional()
def smooth_l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """Squares of differences below `beta`, divided by 2 * beta; absolute differences beyond."""
    if beta < 0:
        raise ArgumentError("smooth_l1_loss does not support negative values for beta.")
    return _pair_loss("smooth_l1_loss", input, target, reduction, beta=float(beta))


@_functional()
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0
) -> Tensor:
    """Half squares of differences up to `delta`; beyond, delta times the rest."""
    if delta <= 0:
        raise ArgumentError("huber_loss does not support non-positive values for delta.")
    return _pair_loss("huber_loss", input, target, reduction, delta=float(delta))


@_functional()
def kl_div(
    input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """target * (log(target) - input), `input` holding logarithms; "batchmean" divides by rows."""
    rows = input._array.shape[0] if input.ndim and reduction == "batchmean" else 1
    params = {
        "log_target": bool(log_target),
        "reduction": "sum" if reduction == "batchmean" else reduction,
    }
    _check_reduction(params["reduction"])  # type: ignore[arg-type]
    loss = apply(OPS["kl_div"], _pair("kl_div", input, target), params)
    return div(loss, rows) if reduction == "batchmean" else loss


def _same_shape(name: str, input: Tensor, target: Tensor) -> None:
    if input.shape != target.shape:
        raise ShapeError(
            f"{name}: target size ({list(target.shape)}) must be the same as input size "
            f"({list(input.shape)})"
        )


def _spread_weight(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    if weight._array.shape == shape:
        return weight
    return apply(OPS["broadcast_to"], [weight], {"shape": shape})


@_functional()
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """-(target * log(x) + (1 - target) * log(1 - x)); logarithms count as -100 at least."""
    name = "binary_cross_entropy"
    _check_reduction(reduction)
    _same_shape(name, input, target)
    message = f"{name}: all elements of input should be between 0 and 1"
    require(floating_only(input, name), Limits(0, 1, message, error=ArgumentError))
    operands = list(promote(floating_only(input, name), target))
    if weight is not None:
        operands.append(_spread_weight(weight, input._array.shape))
    return apply(OPS[name], operands, {"reduction": reduction})


@_functional()
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of the sigmoid of `input`, without loss of digits."""
    name = "binary_cross_entropy_with_logits"
    _check_reduction(reduction)
    _same_shape(name, input, target)
    operands = list(promote(floating_only(input, name), target))
    for extra in (weight, pos_weight):
        if extra is not None:
            operands.append(_spread_weight(extra, input._array.shape))
    params = {"weighted": weight is not None, "reduction": reduction}
    return apply(OPS[name], operands, params)


@_functional()
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-input at the class of each target. `input` is (N, C, ...) or (C), of log-probabilities.

    The mean is over the weights of the classes; targets equal to `ignore_index` do not count.
    """
    _check_reduction(reduction)
    x = floating_only(input, "nll_loss")
    if x.ndim == 0:
        raise ShapeError("nll_loss: expected input with 1 or more dimensions, got 0")
    if target.dtype is not int64:
        raise DtypeError(f"expected scalar type Long but found {target.dtype.name}")
    axis = 1 if x.ndim > 1 else 0
    shape = x._array.shape
    expected = (*shape[:axis], *shape[axis + 1 :])
    if target._array.shape != expected:
        raise ShapeError(
            f"Expected target size {list(expected)}, got {list(target.shape)} "
            f"for an input of {list(shape)}"
        )
    message = "Target {} is out of bounds."
    require(target, Limits(0, shape[axis] - 1, message, spared=int(ignore_index)))
    operands = [x, target]
    if weight is not None:
        if weight._array.shape != (shape[axis],):
            raise ShapeError(
                "weight tensor should be defined either for all or no classes: expected "
                f"[{shape[axis]}], got {list(weight.shape)}"
            )
        operands.append(weight)
    params = {"axis": axis, "ignore_index": int(ignore_index), "reduction": reduction}
    name = "NllLossBackward0" if x.ndim <= 2 else "NllLoss2DBackward0"
    return apply(OPS["nll_loss"], operands, params, grad_name=name)


@_functional()
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross-entropy of the softmax of `input`, (N, C, ...) or (C), against class indices or
    probabilities of the classes.

    `label_smoothing` is the share of each target that is spread evenly over the classes.
    """
    _check_reduction(reduction)
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if input.ndim == 0:
        raise ShapeError("cross_entropy: expected input with 1 or more dimensions, got 0")
    axis = 1 if input.ndim > 1 else 0
    logs = log_softmax(input, axis)
    if target.dtype.kind == "f":
        return _soft_targets(logs, target, axis, weight, reduction, label_smoothing)
    hard = nll_loss(logs, target, weight, ignore_index, reduction)
    if label_smoothing == 0:
        return hard
    even = _even_loss(logs, target, axis, weight, ignore_index, reduction)
    return add(
        mul(hard, 1 - label_smoothing), mul(even, label_smoothing / input._array.shape[axis])
    )


def _class_weights(weight: Tensor, ndim: int, axis: int) -> Tensor:
    return reshaped(weight, tuple(weight._array.size if i == axis else 1 for i in range(ndim)))


def _soft_targets(
    logs: Tensor,
    target: Tensor,
    axis: int,
    weight: Tensor | None,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    _same_shape("cross_entropy", logs, target)
    classes = logs._array.shape[axis]
    if label_smoothing:
        target = add(mul(target, 1 - label_smoothing), label_smoothing / classes)
    terms = mul(logs, target)
    if weight is not None:
        terms = mul(terms, _class_weights(weight, logs.ndim, axis))
    loss = neg(sum_(terms, axis))
    if reduction == "none":
        return loss
    return sum_(loss) if reduction == "sum" else div(sum_(loss), max(loss._array.size, 1))


def _even_loss(
    logs: Tensor,
    target: Tensor,
    axis: int,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """The loss against all classes alike, for label smoothing."""
    terms = logs if weight is None else mul(logs, _class_weights(weight, logs.ndim, axis))
    loss = neg(sum_(terms, axis))
    ignored = apply(OPS["eq"], promote(target, ignore_index))
    loss = apply(OPS["where"], [ignored, *promote(0.0, loss)])
    if reduction != "mean":
        return reduce(loss, reduction)
    if weight is None:
        kept = apply(OPS["cast"], [apply(OPS["logical_not"], [ignored])], {"dtype": loss.dtype})
        return div(sum_(loss), sum_(kept))
    # The mean over weights: those of the targets' own classes.
    ones = apply(OPS["broadcast_to"], promote(-1.0, logs)[:1], {"shape": logs._array.shape})
    return div(sum_(loss), nll_loss(ones, target, weight, ignore_index, "sum"))


@_functional()
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """exp(input) - target * input, or input - target * log(input + eps)."""
    if full:
        raise ArgumentError("poisson_nll_loss: full=True is not available")
    x = floating_only(input, "poisson_nll_loss")
    if log_input:
        loss = sub(apply(OPS["exp"], [x]), mul(target, x))
    else:
        loss = sub(x, mul(target, apply(OPS["log"], [add(x, eps)])))
    return reduce(loss, reduction)


@_functional()
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """(log(var) + (input - target)**2 / var) / 2, the variance being `eps` at least."""
    # The bound acts on the value alone: the variance gets its gradient below it too.
    lift = apply(OPS["detach"], [sub(clamp_min(var, eps), var)])
    spread = add(var, lift)
    error = sub(input, target)
    loss = mul(add(apply(OPS["log"], [spread]), div(mul(error, error), spread)), 0.5)
    return reduce(add(loss, 0.9189385332046727) if full else loss, reduction)


@_functional()
def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """input where target is 1, max(0, margin - input) where it is -1."""
    apart = clamp_min(sub(margin, input), 0)
    positive = apply(OPS["eq"], promote(target, 1))
    return reduce(apply(OPS["where"], [positive, *promote(input, apart)]), reduction)


@_functional()
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """1 - cosine where target is 1, max(0, cosine - margin) where it is -1."""
    axis = axis_of(-1, input1.ndim)
    cosine = cosine_similarity(input1, input2, axis, 1e-8)
    positive = apply(OPS["eq"], promote(target, 1))
    chosen = promote(sub(1, cosine), clamp_min(sub(cosine, margin), 0))
    return reduce(apply(OPS["where"], [positive, *chosen]), reduction)


@_functional()
def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps over the last axis."""
    return fold("norm", add(sub(x1, x2), eps), -1, keepdim, p=float(p))
