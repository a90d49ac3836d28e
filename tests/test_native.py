"""The native layer: kernel vocabulary, compilation and caches, programs, BLAS, memory."""

import itertools
import os
import platform
import re
import sys
import textwrap

import numpy as np
import pytest

from tracegrad.codegen.gemm import (
    TILED_ROWS,
    BatchAxis,
    Matrix,
    gemm_extent,
    gemm_source,
    gemm_table,
)
from tracegrad.codegen.table import real_bits
from tracegrad.runtime import kernels, memory, program
from tracegrad.runtime.blas import gemm_addresses
from tracegrad.runtime.program import Buffer, Program, Step

HEAD = "from tracegrad.codegen.primitives import *\n\n\n"
NUMPY = {
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    "b1": np.bool_,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
}
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 89.0, -104.0, 710.0, -750.0, 1e30, -1e-30]
SPECIAL += [np.inf, -np.inf, np.nan]


def compile_body(body, setup=""):
    """A kernel with `body` in its loop over i and `setup` before it."""
    text = "def kernel(pointers, table, start, stop):\n"
    text += textwrap.indent(textwrap.dedent(setup), "    ")
    text += "    for i in range(start, stop):\n"
    text += textwrap.indent(textwrap.dedent(body), "        ")
    return kernels.compile_kernel(HEAD + text)


def run(kernel, arrays, extent, table=(), grain=sys.maxsize):
    """Run one kernel once, with an array in each slot."""
    buffers = [Buffer(index) for index in range(len(arrays))]
    Program(buffers, [Step(kernel, list(table), extent, grain)], len(arrays)).run(*arrays)


def map_kernel(expression, code, operands=1, result=None):
    """The kernel that stores an expression of x (and y)."""
    setup = "".join(f"p{k} = pointer_{code}(pointers, {k})\n" for k in range(operands))
    setup += f"o = output_{result or code}(pointers, {operands}, 0)\n"
    body = "".join(f"{'xy'[k]} = load(p{k}, i)\n" for k in range(operands))
    return compile_body(body + f"store(o, i, {expression})\n", setup)


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("code", NUMPY)
def test_a_load_and_a_store_keep_every_value(code):
    dtype = NUMPY[code]
    if code.startswith("f"):
        values = np.array([0.0, -0.0, 1.5, -2.25, np.inf, -np.inf, 6e-8, 65504.0], dtype)
    elif code == "b1":
        values = np.array([True, False, True, True])
    else:
        limits = np.iinfo(dtype)
        values = np.array([0, 1, limits.min, limits.max], dtype)
    x = np.tile(values, 20)
    out = np.zeros_like(x)
    run(map_kernel("x", code), [x, out], x.size)
    assert out.tobytes() == x.tobytes()


def test_indices_are_raw_element_counts():
    x = np.arange(60, dtype=np.float32)
    out = np.zeros(20, np.float32)
    setup = """\
        a = pointer_f32(pointers, word(table, 0))
        o = output_f32(pointers, word(table, 1), 0)
        step = word(table, 2)
        scale = f32(real(table, 3))
    """
    kernel = compile_body("store(o, i, scale * load(a, i * step))\n", setup)
    run(kernel, [x, out], 20, [0, 1, 3, real_bits(2.5)])
    np.testing.assert_array_equal(out, 2.5 * x[::3])
    # A negative index is memory before the pointer, not Python's wraparound.
    backwards = Step(kernel, [0, 1, -1, real_bits(1.0)], 20)
    Program([Buffer(0, x.nbytes - 4), Buffer(1)], [backwards], 2).run(x, out)
    np.testing.assert_array_equal(out, x[::-1][:20])


def test_in_place_through_one_pointer():
    x = np.arange(1000, dtype=np.float64)
    kernel = compile_body(
        "store(o, i, load_output(o, i) + 1.0)\n", "o = output_f64(pointers, 0, 0)\n"
    )
    run(kernel, [x], x.size)
    np.testing.assert_array_equal(x, np.arange(1000) + 1.0)


# ------------------------------------------------------------------------------------ vectorisation


x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 machine code"
)


def packed(kernel, operation):
    """Whether the machine code holds an operation on a whole register, of any width."""
    return re.search(rf"\bv?{operation}\b", kernel.assembly()) is not None


@x86
@pytest.mark.parametrize("count", [1, 2, 4])
def test_vectors_side_by_side(count, fresh_cache):
    setup = """\
        a = pointer_f64(pointers, 0)
        o = output_f64(pointers, 1, 0)
        one = f64(1)
    """
    kernel = compile_body(f"store(o, i, one / load(a, i))\ninterleave({count})\n", setup)
    # Those of the loop, and perhaps one for what is left over.
    divisions = re.findall(r"\bv?divpd\b", kernel.assembly())
    assert count <= len(divisions) <= count + 1
    x = np.arange(1.0, 200.0)
    out = np.zeros_like(x)
    run(kernel, [x, out], x.size)
    np.testing.assert_array_equal(out, 1 / x)


@x86
def test_twelve_inputs_and_three_outputs_vectorise(fresh_cache):
    setup = "".join(f"p{k} = pointer_f32(pointers, {k})\n" for k in range(12))
    setup += "".join(f"o{k} = output_f32(pointers, {12 + k}, {k})\n" for k in range(3))
    total = " + ".join(f"load(p{k}, i)" for k in range(12))
    body = f"s = {total}\nstore(o0, i, s)\nstore(o1, i, s + s)\nstore(o2, i, s * s)\n"
    kernel = compile_body(body, setup)
    assert packed(kernel, "addps")
    arrays = [np.full(100, k, np.float32) for k in range(15)]
    run(kernel, arrays, 100)
    assert [array[99] for array in arrays[12:]] == [66.0, 132.0, 4356.0]


@x86
@pytest.mark.parametrize(
    ("operation", "expected"), [("add_reassoc", "addps"), ("maximum_reassoc", "maxps")]
)
def test_a_reduction_vectorises(fresh_cache, operation, expected):
    setup = "a = pointer_f32(pointers, 0)\no = output_f32(pointers, 1, 0)\nn = word(table, 0)\n"
    body = f"""\
        total = load(a, i * n)
        for j in range(1, n):
            total = {operation}(total, load(a, i * n + j))
        store(o, i, total)
    """
    assert packed(compile_body(body, setup), expected)


@x86
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="libmvec is part of glibc")
def test_vector_math_calls_the_vector_library(fresh_cache):
    from tracegrad.codegen.vector_library import vector_variants

    if not vector_variants("hypotf", 2, 4):
        pytest.skip("this glibc has no vector hypot")
    kernel = map_kernel("hypot(x, y)", "f32", 2)
    assert re.search(r"_ZGV[de]N\d+vv_hypotf", kernel.assembly())


# ------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("code", ["f32", "f64"])
def test_rounding_functions_agree_with_numpy(code):
    """In whole vectors and in single elements; the mathematical ones are in test_vector_math."""
    names = ("ceil", "fabs", "floor", "rint", "sqrt", "trunc")
    setup = "a = pointer_f64(pointers, 0)\nn = word(table, 0)\n".replace("f64", code)
    setup += f"o = output_{code}(pointers, 1, 0)\n"
    body = "x = load(a, i)\n"
    body += "".join(f"store(o, i + {k} * n, {name}(x))\n" for k, name in enumerate(names))
    kernel = compile_body(body, setup)
    x = np.concatenate([np.repeat(SPECIAL, 32), np.linspace(-9, 9, 217)]).astype(NUMPY[code])
    for array in (x, *np.array(SPECIAL, x.dtype).reshape(-1, 1)):
        out = np.empty((len(names), array.size), x.dtype)
        run(kernel, [array, out], array.size, [array.size])
        for name, row in zip(names, out, strict=True):
            with np.errstate(all="ignore"):
                same_bits(row, getattr(np, name)(array))


@pytest.mark.parametrize("code", ["f32", "f64"])
@pytest.mark.parametrize("name", ["copysign", "fmod"])
def test_functions_of_two_variables_agree_with_numpy(name, code):
    random = np.random.default_rng(1)
    x, y = (np.repeat(v.ravel(), 32) for v in np.meshgrid(SPECIAL, SPECIAL))
    x = np.concatenate([x, random.uniform(0.1, 5, 500)]).astype(NUMPY[code])
    y = np.concatenate([y, random.uniform(-5, 5, 500)]).astype(NUMPY[code])
    out = np.empty_like(x)
    run(map_kernel(f"{name}(x, y)", code, 2), [x, y, out], x.size)
    with np.errstate(all="ignore"):
        same_bits(out, getattr(np, name)(x, y))


def same_bits(got, want):
    """Equal, also in the sign of 0; any NaN is as good as another."""
    np.testing.assert_array_equal(got, want)
    number = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(want)[number])


@pytest.mark.parametrize("name", ["maximum", "minimum", "maximum_reassoc", "minimum_reassoc"])
@pytest.mark.parametrize("code", ["f32", "f64", "i32", "u8"])
def test_extrema_agree_with_numpy(name, code):
    values = [v for v in SPECIAL if code[0] == "f" or (np.isfinite(v) and 0 <= v < 256)]
    x, y = (v.ravel().astype(NUMPY[code]) for v in np.meshgrid(values, values))
    out = np.empty_like(x)
    run(map_kernel(f"{name}(x, y)", code, 2), [x, y, out], x.size)
    np.testing.assert_array_equal(out, getattr(np, name.partition("_")[0])(x, y))


@pytest.mark.parametrize("instructions", [True, False])
def test_float16_conversions(fresh_cache, monkeypatch, instructions):
    """With the CPU's instructions, where it has them, and with integer arithmetic."""
    from tracegrad.codegen.primitives import half

    if instructions and not half.has_instructions():
        pytest.skip("this CPU has no float16 conversion")
    monkeypatch.setattr(half, "has_instructions", lambda: instructions)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    wide = np.empty(every.size, np.float32)
    setup = "a = pointer_f16(pointers, 0)\no = output_f32(pointers, 1, 0)\n"
    run(compile_body("store(o, i, load(a, i))\n", setup), [every, wide], every.size)
    np.testing.assert_array_equal(wide, every.astype(np.float32))

    # Every float16, the midpoints between neighbours, and the values next to those.
    with np.errstate(all="ignore"):
        middle = (wide[:-1] + wide[1:]) / 2
        x = np.concatenate([wide, middle, np.nextafter(middle, 9), np.nextafter(middle, -9)])
    x = np.concatenate([x, np.array([1e-9, -1e-9, 1e9, -1e9, 65519.9, 65520], np.float32)])
    narrow = np.empty(x.size, np.float16)
    setup = "a = pointer_f32(pointers, 0)\no = output_f16(pointers, 1, 0)\n"
    run(compile_body("store(o, i, load(a, i))\n", setup), [x, narrow], x.size)
    with np.errstate(all="ignore"):
        expected = x.astype(np.float16)
    np.testing.assert_array_equal(narrow, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(narrow[number]), np.signbit(expected[number]))


# ------------------------------------------------------------------------------------ kernel caches


def test_equal_source_is_one_kernel():
    first = map_kernel("x + f32(17.0)", "f32")
    before = kernels.statistics.reused
    assert map_kernel("x + f32(17.0)", "f32") is first
    assert kernels.statistics.reused == before + 1


# ----------------------------------------------------------------------------------------- programs


@pytest.fixture
def threads():
    before = program.get_num_threads()
    yield
    program.set_num_threads(before)


def test_steps_run_in_order_on_offset_buffers():
    double = map_kernel("x + x", "f32")
    memory_block = np.arange(30, dtype=np.float32)
    buffers = [Buffer(0), Buffer(0, 40), Buffer(0, 80)]
    shifted = compile_body(
        "store(o, i, load(a, i) + f32(1.0))\n",
        "a = pointer_f32(pointers, 1)\no = output_f32(pointers, 2, 0)\n",
    )
    Program(buffers, [Step(double, [], 10), Step(shifted, [], 10)], 1).run(memory_block)
    np.testing.assert_array_equal(memory_block[10:20], 2 * np.arange(10))
    np.testing.assert_array_equal(memory_block[20:], 2 * np.arange(10) + 1)


@pytest.mark.parametrize("extent", [1, 2, 3, 1000, 1024, 5000, 100_003])
def test_parallel_and_serial_runs_are_equal(threads, extent):
    kernel = map_kernel("tanh(x)", "f32")
    x = np.random.default_rng(2).normal(size=extent).astype(np.float32)
    results = []
    for count in {1, program._default_threads()}:
        program.set_num_threads(count)
        out = np.full(extent + 1, 7, np.float32)
        run(kernel, [x, out], extent, grain=1)
        assert out[extent] == 7
        results.append(out[:extent])
    np.testing.assert_allclose(results[0], np.tanh(x), rtol=1e-6)
    np.testing.assert_allclose(results[-1], results[0], rtol=1e-6)


def test_wrong_arguments_run_nothing():
    x = np.ones(4, np.float32)
    out = np.zeros(4, np.float32)
    kernel = map_kernel("x", "f32")
    launch = Program([Buffer(0), Buffer(1)], [Step(kernel, [], 4)], 2)
    for arguments in [(), (x,), (x, out, out), (x, 1.0), (x, [1.0]), (x, None)]:
        with pytest.raises(TypeError, match="one int or numpy"):
            launch.run(*arguments)
    assert not out.any()
    launch.run(x.ctypes.data, out.ctypes.data)
    assert out.all()
    with pytest.raises(ValueError, match="none of the 1 bases"):
        Program([Buffer(1)], [], 1)


def test_running_leaks_no_reference():
    x = np.ones(4, np.float32)
    launch = Program([Buffer(0), Buffer(1)], [Step(map_kernel("x", "f32"), [], 4)], 2)
    before = sys.getrefcount(x)
    for _ in range(100):
        assert launch.run(x, x) is None
    assert sys.getrefcount(x) == before


# --------------------------------------------------------------------------------------------- BLAS


def multiply(code, a, b, c, transposed_a, transposed_b, batch=(), alpha=1.0, beta=0.0):
    """Run one product; the last two axes of the operands are the stored matrices."""
    m, n = c.shape[-2:]
    k = a.shape[-2] if transposed_a else a.shape[-1]
    slots = Matrix(0, transposed_a), Matrix(1, transposed_b), Matrix(2)
    table = gemm_table(code, gemm_addresses(code), *slots, m, n, k, batch, alpha, beta)
    run(kernels.compile_kernel(gemm_source(code)), [a, b, c], gemm_extent(m, n, k, batch), table)


@pytest.mark.parametrize("code", ["f32", "f64"])
def test_products_of_every_shape(code):
    random = np.random.default_rng(3)
    sizes = itertools.product((0, 1, 3, 9), (0, 1, 2, 8, 87), (0, 1, 4, 17))
    for (m, n, k), ta, tb in itertools.product(sizes, (False, True), (False, True)):
        a = random.normal(size=(k, m) if ta else (m, k)).astype(NUMPY[code])
        b = random.normal(size=(n, k) if tb else (k, n)).astype(NUMPY[code])
        product = (a.T if ta else a) @ (b.T if tb else b)
        for alpha, beta in ((1.0, 0.0), (-0.5, 1.0), (1.0, 2.0)):
            # With beta = 0 the old contents must not count, NaN included.
            c = np.full((m, n), np.nan if beta == 0 else 3.0, NUMPY[code])
            multiply(code, a, b, c, ta, tb, (), alpha, beta)
            expected = alpha * product + (beta * 3.0 if beta else 0.0)
            np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("code", ["f32", "f64"])
@pytest.mark.parametrize("k", [TILED_ROWS, TILED_ROWS + 1, 3 * TILED_ROWS - 5])
def test_products_with_a_long_inner_size(code, k):
    random = np.random.default_rng(4)
    a, b = random.normal(size=(6, k)).astype(NUMPY[code]), random.normal(size=(k, 70))
    b = b.astype(NUMPY[code])
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
    # What a product of NumPy is off by: how BLAS adds up depends on the processor.
    usual = float(abs(a @ b - exact).max())
    for alpha, beta in ((1.0, 0.0), (-0.5, 1.0)):
        c = np.full((6, 70), np.nan if beta == 0 else 3.0, NUMPY[code])
        multiply(code, a, b, c, False, False, (), alpha, beta)
        expected = alpha * exact + (3.0 if beta else 0.0)
        np.testing.assert_allclose(c, expected, rtol=0, atol=2 * usual)


def test_products_of_a_broadcast_batch():
    random = np.random.default_rng(4)
    a = random.normal(size=(5, 1, 6, 7))
    b = random.normal(size=(3, 7, 8))
    c = np.empty((5, 3, 6, 8))
    batch = (BatchAxis(5, 42, 0, 144), BatchAxis(3, 0, 56, 48))
    multiply("f64", a, b, c, False, False, batch)
    np.testing.assert_allclose(c, a @ b, rtol=1e-12)


def test_product_of_a_part_of_a_matrix():
    a = np.random.default_rng(5).normal(size=(12, 20))
    c = np.zeros((12, 12))
    matrices = Matrix(0, False, 20), Matrix(0, True, 20), Matrix(1)
    table = gemm_table("f64", gemm_addresses("f64"), *matrices, 12, 12, 9)
    run(kernels.compile_kernel(gemm_source("f64")), [a, c], 1, table)
    np.testing.assert_allclose(c, a[:, :9] @ a[:, :9].T, rtol=1e-12)
    with pytest.raises(ValueError, match="beyond 32 bits"):
        gemm_table("f32", (0, 0), Matrix(0), Matrix(1), Matrix(2), 2**31, 1, 1)


# ------------------------------------------------------------------------------------------- memory


def new_array(shape, dtype=np.float32):
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block, offset, address = memory.allocate(nbytes)
    array = np.ndarray(shape, dtype, buffer=block, offset=offset)
    assert array.ctypes.data == address
    assert address % 64 == 0
    return array


@pytest.mark.parametrize("size", [0, 1, 16, 1000, 1024, 1025, 20_000, 1_000_000])
def test_live_arrays_never_overlap(size):
    arrays = [new_array((size,)) for _ in range(40)]
    for number, array in enumerate(arrays):
        array[:] = number
    for number, array in enumerate(arrays):
        assert (array == number).all()


def test_a_large_block_comes_back_after_its_last_view():
    memory.empty_cache()
    array = new_array((300, 1000))
    address = array.ctypes.data
    view = array.reshape(-1)[10:].view(np.int32)[::2]
    del array
    assert new_array((300, 1000)).ctypes.data != address
    reused = memory.memory_stats().reused
    del view
    seen = {new_array((300, 1000)).ctypes.data for _ in range(4)}
    assert memory.memory_stats().reused == reused + 4
    held = [new_array((300, 1000)) for _ in range(2)]
    assert address in seen | {array.ctypes.data for array in held}


def test_slabs_come_back():
    for _ in range(3):
        made = memory.memory_stats().made
        for _ in range(1000):
            new_array((512,))
    assert memory.memory_stats().made == made


def test_the_pool_is_trimmed(monkeypatch):
    memory.empty_cache()
    monkeypatch.setattr(memory, "_limit", memory.memory_stats().pooled_bytes + 50_000_000)
    kept = new_array((1_000_000,))
    kept[:] = 5
    for step in range(40):
        new_array((1_000_000 + 200_000 * step,))
        assert memory.memory_stats().pooled_bytes <= memory._limit
    assert (kept == 5).all()
    before = memory.memory_stats()
    dropped = memory.empty_cache()
    after = memory.memory_stats()
    assert dropped == before.free_bytes + before.scratch_bytes - after.scratch_bytes
    assert after.free_bytes == 0


def test_scratch_grows_and_is_aligned():
    small = memory.scratch(100)
    assert memory.scratch(small.nbytes) is small
    large = memory.scratch(small.nbytes + 1)
    assert large.nbytes > small.nbytes
    assert large.ctypes.data % 64 == 0
    assert memory.scratch(1) is large


def test_a_kernel_that_does_not_compile_is_reported_without_a_numba_traceback() -> None:
    from tracegrad.errors import CompilationError

    with pytest.raises(CompilationError, match="bug of tracegrad") as caught:
        kernels.compile_kernel(
            "def kernel(pointers, table, start, stop):\n    return undefined_name\n"
        )
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
