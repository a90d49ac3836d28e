"""The machine that runs programs; compiled by `tracegrad.runtime.program`, never imported.

A program is an int64 table, laid out by `program.Program`:

    0  address of the control words          1  number of bases that a call passes
    2  number of buffers                     3  number of steps
    4  word position of the buffers          5  word position of the steps
    6  word position of the pointer array    7  address of the type `int`
    8  address of the type `numpy.ndarray`   9  address of `None`
   10  address of the type `TypeError`      11  address of the message for it

The control words of the process, and the four words of a step, are those of
`primitives.launch_step`. A buffer is two words: the index of its base among a call's arguments, and
a byte offset.
"""

from __future__ import annotations

from typing import Any

from numba import types

from tracegrad.codegen.primitives import launch_step, read_word, store_word, word

# CPython's C API. The annotations are for type checkers, to which Numba's constructors are opaque.
_External: Any = types.ExternalFunction
_void: Any = types.void
_as_integer = _External("PyLong_AsLongLong", types.int64(types.intp))
_set_error = _External("PyErr_SetString", _void(types.intp, types.intp))
_keep = _External("Py_IncRef", _void(types.intp))


def call(owner: int, arguments: int, count: int) -> int:
    """Run the program in the array `owner`: a Python function, called by METH_FASTCALL.

    The arguments are the addresses of the program's bases, as `int` or as `numpy.ndarray`; the
    latter costs the caller nothing, where asking NumPy for an address takes longer than a small
    kernel. The GIL is held, so the program's pointer array is never entered twice at once.
    """
    # CPython's layout: an object's second word is its type; an array's third is its data address.
    program = word(owner, 2)
    buffers = program + 8 * word(program, 4)
    buffer_count = word(program, 2)
    pointers = program + 8 * word(program, 6)
    bases = pointers + 8 * buffer_count
    accepted = count == word(program, 1)
    if accepted:
        for i in range(count):
            value = word(arguments, i)
            kind = word(value, 1)
            if kind == word(program, 8):
                store_word(bases, i, word(value, 2))
            elif kind == word(program, 7):
                store_word(bases, i, _as_integer(value))
            else:
                accepted = False
    if not accepted:
        _set_error(word(program, 10), word(program, 11))
        return 0
    for i in range(buffer_count):
        base = read_word(bases, word(buffers, 2 * i))
        store_word(pointers, i, base + word(buffers, 2 * i + 1))

    control = word(program, 0)
    step = program + 8 * word(program, 5)
    for _ in range(word(program, 3)):
        launch_step(pointers, step, program, control)
        step += 32

    none: int = word(program, 9)
    _keep(none)
    return none
