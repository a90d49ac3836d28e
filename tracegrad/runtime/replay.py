"""The machine that takes known calls; compiled by `tracegrad.runtime.entry`, never imported.

A call that is like an earlier one does the same as that one did: the same objects stand at the same
ways, arrays are of the same types, so the same program runs. `replay` checks that and does it, from
a table of words that `entry.Entry` lays out. What it knows of the layout of Python's objects is
what CPython's headers promise: words 0 and 1 are reference count and type; a list, a tuple and a
dictionary have their length in word 2; an array its address in word 2, then the number of axes,
shape, strides, base, dtype and flags.
"""

from __future__ import annotations

from typing import Any

from numba import float32, types

from tracegrad.codegen.primitives import call_address, read_word, real, store_real, store_word, word

# CPython's C API. The annotations are for type checkers, to which Numba's constructors are opaque.
_External: Any = types.ExternalFunction
_void: Any = types.void
_word: Any = types.int64
_int: Any = types.int32
_as_integer = _External("PyLong_AsLongLong", _word(_word))
_error = _External("PyErr_Occurred", _word())
_clear_error = _External("PyErr_Clear", _void())
_keep = _External("Py_IncRef", _void(_word))
_drop = _External("Py_DecRef", _void(_word))
_item_of_dict = _External("PyDict_GetItem", _word(_word, _word))
_next = _External("PyDict_Next", _int(_word, _word, _word, _word))
_attribute = _External("PyObject_GetAttr", _word(_word, _word))
_call = _External("PyObject_CallNoArgs", _word(_word))
_allocate = _External("PyType_GenericAlloc", _word(_word, _word))
_new_list = _External("PyList_New", _word(_word))
_new_tuple = _External("PyTuple_New", _word(_word))


def replay(owner: int, arguments: int, count: int) -> int:
    """Do a call by the table in the array `owner`: a Python function, called by METH_FASTCALL.

    None, and nothing done, for a call that is not like the one the table was made from. Else what
    the table says: the result itself, or a list of all outputs of the program and then all inputs.
    The GIL is held throughout.
    """
    table = word(owner, 2)
    none: int = word(table, 2)
    # Python code that is called in between, as by a property, may come here again.
    if count != word(table, 0) or read_word(table, 1) != 0:
        _keep(none)
        return none
    store_word(table, 1, 1)
    registers = table + 8 * word(table, 3)
    values = table + 8 * word(table, 4)
    matches = True
    step = table + 8 * word(table, 5)
    for _ in range(word(table, 6)):
        kind = word(step, 0)
        found = 0
        if kind >= 3:
            found = read_word(registers, word(step, 1))
        a = word(step, 2)
        b = word(step, 3)
        target = word(step, 4)
        if kind == 0:  # an argument
            found = word(arguments, a)
        elif kind == 1:  # an item of a dictionary that stays
            found = _item_of_dict(a, b)
            matches = found != 0
        elif kind == 2:  # what an object that stays has in one of its words
            found = read_word(a, b)
            matches = found != 0
        elif kind == 3:  # an attribute
            found = _attribute(found, a)
            if found == 0:
                _clear_error()
                matches = False
            else:
                # Whoever has the attribute keeps the object. Nobody does if it was made just now.
                matches = read_word(found, 0) > 1
                _drop(found)
        elif kind == 4:  # an item of a list
            found = read_word(read_word(found, 3), a)
        elif kind == 5:  # what the object has in one of its words
            found = read_word(found, a)
        elif kind == 6:  # an item of a dictionary
            found = _item_of_dict(found, a)
            matches = found != 0
        elif kind == 7:  # is this very object
            matches = found == a
        elif kind == 8:  # is the object in another register
            matches = found == read_word(registers, a)
        elif kind == 9:  # is of this class
            matches = word(found, 1) == a
        elif kind == 10:  # has so many items
            matches = word(found, 2) == a
        elif kind == 11:  # a float as an array of float64
            store_real(a, real(found, 2))
        elif kind == 12:  # a float as an array of float32
            store_real(a, float32(real(found, 2)))
        elif kind == 13:  # an int as an array of int64
            number = _as_integer(found)
            if number == -1 and _error() != 0:
                _clear_error()
                matches = False
            else:
                store_word(a, 0, number)
        elif kind == 14:  # an array of this type, given to the program
            # The type: class, dtype, number of axes, whether C-contiguous, sizes, strides.
            axes = word(a, 2)
            matches = (
                word(found, 1) == word(a, 0)
                and word(found, 7) == word(a, 1)
                and word(found, 3) & 0xFFFFFFFF == axes
                and word(found, 8) & 1 == word(a, 3)
            )
            if matches:
                shape = word(found, 4)
                for i in range(axes):
                    if word(shape, i) != word(a, 4 + i):
                        matches = False
                if word(a, 3) == 0:
                    strides = word(found, 5)
                    for i in range(axes):
                        if word(strides, i) != word(a, 4 + axes + i):
                            matches = False
            store_word(values, b, found)
        elif kind == 15:  # shares its value with none of the registers before: see `distinct`
            for i in range(a, b):
                if read_word(registers, i) == found:
                    matches = False
        elif kind == 16:  # a dictionary with just these keys: its values go to the next registers
            # The keys: how many, position, key and value while they are looked at, then each key.
            store_word(a, 1, 0)
            for i in range(word(a, 0)):
                if _next(found, a + 8, a + 16, a + 24) == 0 or read_word(a, 2) != word(a, 4 + i):
                    matches = False
                    break
                store_word(registers, target + 1 + i, read_word(a, 3))
        elif kind == 17:  # a tensor that requires a gradient, or does not
            base = read_word(found, b)
            matches = read_word(found, word(step, 4)) == a
            if matches and base != none and a == word(table, 22):
                # A view of a tensor requires a gradient with it.
                matches = read_word(base, word(step, 4)) == a
            target = word(step, 1)
        if not matches:
            break
        store_word(registers, target, found)
        step += 40
    if not matches:
        store_word(table, 1, 0)
        _keep(none)
        return none

    outputs = values + 8 * word(table, 8)
    output_count = word(table, 9)
    new_array = word(table, 10)
    made = 0
    step = table + 8 * word(table, 7)
    while made < output_count:
        if word(step, 0) != 0:
            array = _call(word(step, 0))
        else:
            _keep(word(step, 2))
            array = call_address(
                new_array,
                (word(step, 1), word(step, 2), word(step, 3), word(step, 4), 0, 0, 0, 0),
            )
        if array == 0:
            break
        store_word(outputs, made, array)
        made += 1
        step += 40
    result = 0
    if made == output_count:
        result = call_address(word(table, 11), (word(table, 12), values, word(table, 13)))
    if result != 0:
        _drop(result)
        store_word(table, 14, read_word(table, 14) + 1)
        clock = word(table, 15)
        store_word(clock, 0, read_word(clock, 0) + 1)
        store_word(table, 16, read_word(clock, 0))
        result = 0
        step = table + 8 * word(table, 17)
        # A stack of objects that are to become the result.
        stack = table + 8 * word(table, 19)
        height = 0
        for _ in range(word(table, 18)):
            kind = word(step, 0)
            a = word(step, 1)
            if kind == 0:  # a tensor around output a
                storage = _call(word(table, 20))
                made_of = word(table, 21)
                result = _allocate(made_of, 0)
                array = read_word(outputs, a)
                _keep(array)
                _keep(none)
                _keep(none)
                _keep(none)
                _keep(word(table, 22))
                store_word(result, word(table, 23), array)
                store_word(result, word(table, 24), storage)
                store_word(result, word(table, 25), none)
                store_word(result, word(table, 26), none)
                store_word(result, word(table, 27), none)
                store_word(result, word(table, 28), word(table, 22))
            elif kind == 1:  # None
                _keep(none)
                result = none
            elif kind == 2:  # a tuple of what is on the stack from a on
                result = _new_tuple(height - a)
                for i in range(a, height):
                    store_word(result, 3 + i - a, read_word(stack, i))
                height = a
            elif kind == 3:  # a list, likewise
                result = _new_list(height - a)
                items = read_word(result, 3)
                for i in range(a, height):
                    store_word(items, i - a, read_word(stack, i))
                height = a
            elif kind == 4:  # output a itself
                result = read_word(outputs, a)
                _keep(result)
            else:  # what is in register a
                result = read_word(registers, a)
                _keep(result)
            store_word(stack, height, result)
            height += 1
            step += 16
    for i in range(made):
        _drop(read_word(outputs, i))
    store_word(table, 1, 0)
    return result
