"""tracegrad: a JIT-traced autograd compiler for Python."""

from __future__ import annotations

import math

from tracegrad import autograd, cuda, linalg, nn, random
from tracegrad.ir.types import (
    DType as dtype,  # noqa: N813
)
from tracegrad.ir.types import (
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    promote_types,
    uint8,
)
from tracegrad.runtime.memory import empty_cache, memory_stats, reset_peak_memory_stats
from tracegrad.runtime.object_files import clear as clear_cache
from tracegrad.runtime.random import Generator
from tracegrad.tracer import functions as _functions
from tracegrad.tracer import methods as _methods
from tracegrad.tracer import movement as _movement
from tracegrad.tracer import randomness as _randomness
from tracegrad.tracer.associative_scan import associative_scan
from tracegrad.tracer.autograd import is_tensor
from tracegrad.tracer.branches import cond, switch
from tracegrad.tracer.compile import compile
from tracegrad.tracer.conversion import clone, detach, is_floating_point, numel
from tracegrad.tracer.creation import (
    arange,
    as_tensor,
    empty,
    empty_like,
    eye,
    from_numpy,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    tensor,
    zeros,
    zeros_like,
)
from tracegrad.tracer.debugging import breakpoint_if, debug_print
from tracegrad.tracer.device import Device, device
from tracegrad.tracer.dynamic_slices import (
    dynamic_index_in_dim,
    dynamic_slice,
    dynamic_slice_in_dim,
    dynamic_update_index_in_dim,
    dynamic_update_slice,
    dynamic_update_slice_in_dim,
)
from tracegrad.tracer.grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from tracegrad.tracer.limits import finfo, iinfo
from tracegrad.tracer.loops import fori_loop, map, scan, while_loop
from tracegrad.tracer.printing import set_printoptions
from tracegrad.tracer.promotion import get_default_dtype, result_type, set_default_dtype
from tracegrad.tracer.recomputation import checkpoint
from tracegrad.tracer.tensor import Size, Tensor
from tracegrad.tracer.threads import get_num_threads, set_num_threads
from tracegrad.tracer.transforms import grad, hessian, jacfwd, jacrev, jvp, value_and_grad, vjp
from tracegrad.tracer.vmap import vmap

float = float32
double = float64
half = float16
short = int16
int = int32
long = int64
bool = bool_

pi = math.pi
e = math.e
inf = math.inf
nan = math.nan
newaxis = None

__all__ = [
    "clone",
    "detach",
    "finfo",
    "iinfo",
    "is_floating_point",
    "numel",
    "Device",
    "Generator",
    "Size",
    "Tensor",
    "arange",
    "as_tensor",
    "associative_scan",
    "autograd",
    "bool_",
    "breakpoint_if",
    "checkpoint",
    "clear_cache",
    "compile",
    "cond",
    "cuda",
    "debug_print",
    "device",
    "dtype",
    "dynamic_index_in_dim",
    "dynamic_slice",
    "dynamic_slice_in_dim",
    "dynamic_update_index_in_dim",
    "dynamic_update_slice",
    "dynamic_update_slice_in_dim",
    "empty",
    "empty_cache",
    "empty_like",
    "enable_grad",
    "eye",
    "float16",
    "float32",
    "float64",
    "fori_loop",
    "from_numpy",
    "full",
    "full_like",
    "get_default_dtype",
    "get_num_threads",
    "grad",
    "hessian",
    "inference_mode",
    "int16",
    "int32",
    "int64",
    "int8",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "is_tensor",
    "jacfwd",
    "jacrev",
    "jvp",
    "linalg",
    "linspace",
    "map",
    "memory_stats",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "promote_types",
    "random",
    "reset_peak_memory_stats",
    "result_type",
    "scan",
    "set_default_dtype",
    "set_grad_enabled",
    "set_num_threads",
    "set_printoptions",
    "switch",
    "tensor",
    "uint8",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
    "zeros",
    "zeros_like",
    "float",
    "double",
    "half",
    "short",
    "int",
    "long",
    "bool",
    "pi",
    "e",
    "inf",
    "nan",
    "newaxis",
]

__version__ = "0.1.0.dev0"

_methods.attach()
globals().update(_movement.VIEW_FUNCTIONS)
globals().update(_randomness.RANDOM_FUNCTIONS)
globals().update(_functions.FUNCTIONS)
