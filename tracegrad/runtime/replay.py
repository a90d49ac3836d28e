"""The machine that takes known calls; compiled by `tracegrad.runtime.entry`, never imported.

A call that is like an earlier one does the same as that one did: the same objects stand at the same
ways, arrays are of the same types, so the same programs run. `replay` checks that and does it, from
a table of words that `entry.Entry` lays out: steps that check and read, then a tree of blocks, each
a program and the ways on by the outcome of a condition. What is known here of the layout of
Python's objects is what CPython's headers promise: words 0 and 1 are reference count and type; a
list, a tuple and a dictionary have their length in word 2; an array its address in word 2, then the
number of axes, shape, strides, base, dtype and flags.
"""

from __future__ import annotations

from typing import Any

from numba import float32, float64, types

from tracegrad.codegen.primitives import (
    call_address,
    read_byte,
    read_double,
    read_float,
    read_word,
    real,
    store_real,
    store_word,
    word,
)

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
_new_int = _External("PyLong_FromLongLong", _word(_word))
_item_of_dict = _External("PyDict_GetItem", _word(_word, _word))
_next = _External("PyDict_Next", _int(_word, _word, _word, _word))
_set_attribute = _External("PyObject_SetAttr", _int(_word, _word, _word))
_copy = _External("memcpy", _word(_word, _word, _word))
_next_of = _External("PyIter_Next", _word(_word))
_attribute = _External("PyObject_GetAttr", _word(_word, _word))
_call = _External("PyObject_CallNoArgs", _word(_word))
_allocate = _External("PyType_GenericAlloc", _word(_word, _word))
_new_list = _External("PyList_New", _word(_word))
_new_tuple = _External("PyTuple_New", _word(_word))


def replay(owner: int, arguments: int, count: int) -> int:
    """Do a call by the table in the array `owner`: a Python function, called by METH_FASTCALL.

    None, and nothing done, for a call that is not like the one the table was made from. Else the
    result; or, where Python has to go on, a list of the table's mark, the number of the last block
    that ran, the outputs of all that did, and the inputs. The GIL is held throughout.
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
                matches = read_word(found, 0) & 0xFFFFFFFF > 1
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
            if matches and base != none and a == word(table, 10):
                # A view of a tensor requires a gradient with it.
                matches = read_word(base, word(step, 4)) == a
            target = word(step, 1)
        elif kind == 18:  # a tensor that is no alias of another, or a view of such a one
            base = read_word(found, a)
            matches = read_word(found, b) == none
            if matches and base != none:
                matches = read_word(base, b) == none
        if not matches:
            break
        store_word(registers, target, found)
        step += 40
    if not matches:
        store_word(table, 1, 0)
        _keep(none)
        return none

    # Other threads may run while memory is made: what the call found stays until its end.
    kept = table + 8 * word(table, 21)
    for i in range(word(table, 22)):
        _keep(read_word(table, word(kept, i)))
    path = table + 8 * word(table, 19)
    depth = 0
    made = 0
    result = 0
    block = table + 8 * word(table, 13)
    outputs = values
    # 1: Python goes on, 2: the result is put together, 3: an error is set.
    status = 0
    while status == 0:
        store_word(path, depth, block)
        depth += 1
        made = 0
        outputs = values + 8 * word(block, 5)
        if word(block, 0) != 0:
            maker = table + 8 * word(block, 4)
            while made < word(block, 3):
                if word(maker, 0) != 0:
                    array = _call(word(maker, 0))
                else:
                    _keep(word(maker, 2))
                    array = call_address(
                        word(table, 7),
                        (
                            word(maker, 1),
                            word(maker, 2),
                            word(maker, 3),
                            word(maker, 4),
                            0,
                            0,
                            0,
                            0,
                        ),
                    )
                if array == 0:
                    break
                store_word(outputs, made, array)
                made += 1
                maker += 40
            if made < word(block, 3):
                status = 3
                break
            given = table + 8 * word(table, 14)
            sources = table + 8 * word(block, 2)
            for i in range(word(block, 1)):
                store_word(given, i, read_word(values, word(sources, i)))
            answer = call_address(word(table, 8), (word(block, 0), given, word(block, 1)))
            if answer == 0:
                status = 3
                break
            _drop(answer)
        store_word(block, 14, read_word(block, 14) + 1)
        flag = table + 8 * word(block, 7)
        for i in range(word(block, 6)):
            if read_byte(read_word(read_word(values, word(flag, i)), 2)) != 0:
                status = 1
        leaf = table + 8 * word(block, 18)
        for i in range(word(block, 17)):
            tensor = read_word(registers, word(leaf, i))
            alone = read_word(tensor, word(table, 12)) == none
            if not alone or read_word(tensor, word(table, 11)) != none:
                status = 1
        written = table + 8 * word(block, 20)
        for i in range(word(block, 19)):
            # NumPy's flag of arrays that may be written to.
            if word(read_word(values, word(written, i)), 8) & 0x400 == 0:
                status = 1
        kind = word(block, 8)
        if status == 0 and kind == 0:
            status = 2 if word(block, 12) > 0 else 1
        elif status == 0:
            # The outcome of the condition: the truth of a bool, a float or an int, or a number as
            # an int.
            status = 1
            address = read_word(read_word(values, word(block, 9)), 2)
            if kind == 1:
                outcome = int(read_byte(address) != 0)
            elif kind == 2:
                outcome = int(read_double(address) != 0.0)
            elif kind == 3:
                outcome = int(read_float(address) != float32(0.0))
            elif kind == 4:
                outcome = int(read_word(address, 0) != 0)
            elif kind == 5:
                outcome = read_word(address, 0)
            else:
                value = read_double(address) if kind == 6 else float64(read_float(address))
                # What does not fit is none of the known outcomes.
                outcome = int(value) if abs(value) < 2.0**62 else -(2**63)
            edge = table + 8 * word(block, 11)
            for i in range(word(block, 10)):
                if word(edge, 2 * i) == outcome:
                    block = table + 8 * word(edge, 2 * i + 1)
                    status = 0
                    break

    if status != 3:
        store_word(table, 20, read_word(table, 20) + 1)
        clock = word(table, 9)
        store_word(clock, 0, read_word(clock, 0) + 1)
        store_word(block, 15, read_word(clock, 0))
    if status == 2:
        step = table + 8 * word(block, 13)
        # A stack of objects that are to become the result.
        stack = table + 8 * word(table, 15)
        height = 0
        for _ in range(word(block, 12)):
            kind = word(step, 0)
            a = word(step, 1)
            if kind == 0:  # a value
                result = read_word(values, a)
                _keep(result)
            elif kind == 1:  # what is in a register
                result = read_word(registers, a)
                _keep(result)
            elif kind == 2:  # this object
                result = a
                _keep(result)
            elif kind == 3:  # a tuple of what is on the stack from a on
                result = _new_tuple(height - a)
                for i in range(a, height):
                    store_word(result, word(table, 23) + i - a, read_word(stack, i))
                height = a
            elif kind == 4:  # a list, likewise
                result = _new_list(height - a)
                items = read_word(result, 3)
                for i in range(a, height):
                    store_word(items, i - a, read_word(stack, i))
                height = a
            elif kind == 5:  # what a function returns
                result = _call(a)
            elif kind == 6:  # an object whose slots are the last things on the stack
                # Its class, how many slots, and which words they are.
                result = _allocate(word(a, 0), 0)
                height -= word(a, 1)
                for i in range(word(a, 1)):
                    store_word(result, word(a, 2 + i), read_word(stack, height + i))
            elif kind == 7:  # once more what is at a
                result = read_word(stack, a)
                _keep(result)
            elif kind == 8:  # an attribute of the last thing
                height -= 1
                result = _attribute(read_word(stack, height), a)
                _drop(read_word(stack, height))
            elif kind == 9:  # the next of an iterator
                result = _next_of(a)
            elif kind == 10:  # the last thing; what is before it from a on goes
                height -= 1
                result = read_word(stack, height)
                for i in range(a, height):
                    _drop(read_word(stack, i))
                height = a
            elif kind == 11:  # the elements of one value go to another: which, and how many bytes
                to = read_word(read_word(values, word(a, 1)), 2)
                _copy(to, read_word(read_word(values, word(a, 0)), 2), word(a, 2))
            elif kind == 12:  # the last thing becomes an attribute of the one before
                height -= 1
                result = read_word(stack, height)
                _set_attribute(read_word(stack, height - 1), a, result)
                _drop(result)
            elif kind == 13:  # an attribute of the last thing is one more
                target = read_word(stack, height - 1)
                before = _attribute(target, a)
                after = _new_int(_as_integer(before) + 1)
                _set_attribute(target, a, after)
                _drop(before)
                _drop(after)
            else:  # the last thing goes
                height -= 1
                _drop(read_word(stack, height))
            if kind <= 10:
                store_word(stack, height, result)
                height += 1
            step += 16
        result = read_word(stack, 0)
    elif status == 1:
        count = 2 + word(table, 17)
        for i in range(depth):
            count += word(read_word(path, i), 3)
        result = _new_list(count)
        items = read_word(result, 3)
        mark = word(table, 18)
        _keep(mark)
        store_word(items, 0, mark)
        store_word(items, 1, _new_int(word(block, 16)))
        at = 2
        for i in range(depth):
            before = read_word(path, i)
            for k in range(word(before, 3)):
                array = read_word(values, word(before, 5) + k)
                _keep(array)
                store_word(items, at, array)
                at += 1
        registers_of_inputs = table + 8 * word(table, 16)
        for i in range(word(table, 17)):
            value = read_word(registers, word(registers_of_inputs, i))
            _keep(value)
            store_word(items, at, value)
            at += 1
    # The last block may have made only some of its outputs.
    for i in range(made):
        _drop(read_word(outputs, i))
    for i in range(depth - 1):
        before = read_word(path, i)
        for k in range(word(before, 3)):
            _drop(read_word(values, word(before, 5) + k))
    for i in range(word(table, 22)):
        _drop(read_word(table, word(kept, i)))
    store_word(table, 1, 0)
    return result
