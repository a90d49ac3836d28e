"""Programs of two float64 scalars: conditions and loops in functions given to other forms."""

import tracegrad as tg
from tests.control_programs import F64


def if_in_fori(x, w):
    def body(i, y):
        if y > 0.5:
            y = y * 0.7
        else:
            y = y + w * 0.3
        return y.sin()

    return tg.fori_loop(0, 6, body, x)


def if_in_scan(x, w):
    def step(c, s):
        if c > 0.5:
            c = c * w - s * 0.1
        return c, c if s > 1.0 else c * s * w

    last, rows = tg.scan(step, x, tg.arange(5, dtype=F64))
    return last + (rows * rows).sum()


def if_in_reversed_scan(x, w):
    def step(c, s):
        return (c * s, c) if c * s > 0.2 else (c + w, s * c)

    last, rows = tg.scan(step, x, w * tg.arange(5, dtype=F64), reverse=True)
    return last + (rows * tg.arange(5, dtype=F64)).sum()


def if_in_map(x, w):
    def row(s):
        if s * x > 0.4:
            return (s * w).sin() * x
        return s * s * x

    return tg.map(row, tg.arange(5, dtype=F64) * x).sum()


def if_in_while(x, w):
    def body(y):
        return y * w + 0.5 if y < 3.0 else y * y * 0.5

    return tg.while_loop(lambda y: y < 20.0, body, x)


def if_in_condition(x, w):
    def goes_on(c):
        k, y = c
        if y > 2.0:
            return k < 3
        return k < 6

    return tg.while_loop(goes_on, lambda c: (c[0] + 1, c[1] * w + 0.2), (0, x))[1]


def if_in_cond(x, w):
    def slow(y):
        if y * w > 0.3 and y < 5.0:
            return y * w
        return y.sin()

    return tg.cond(x > 0.0, slow, lambda y: y**2 if w > 1.0 else -y, x)


def if_in_switch(x, w):
    def one(y):
        return y if y > 0.5 else w * y * y

    return tg.switch((x * 10).to(tg.int64), [one, lambda y: y * w, one, lambda y: y**3], x)


def both_sides(x, w):
    def body(i, y):
        if not (y > 0.3 or w < 0.0) or i > 3:
            return y * w + x * 0.1
        return (y + w).cos()

    return tg.fori_loop(0, 5, body, x)


def three_in_a_row(x, w):
    def body(i, y):
        if y > 0.4:
            y = y * w
        if y < 0.9:
            y = y + 0.3
        if i > 2:
            y = y.sin()
        return y

    return tg.fori_loop(0, 6, body, x)


def nested(x, w):
    def outer(i, y):
        def inner(j, z):
            if y > 0.7 and z > 0.5:
                return z * z - y * 0.1
            return z + 0.4 * w if z < y or j > 1 else z * y

        return tg.fori_loop(0, 3, inner, y)

    return tg.fori_loop(0, 3, outer, x)


def early_return(x, w):
    def body(i, y):
        if y > 2.0:
            return y
        y = y * w
        if i == 2:
            return y + x
        return y + 0.3

    return tg.fori_loop(0, 6, body, x)


def vectors(x, w):
    def body(i, v):
        if v.sum() > 1.0:
            return v * 0.5
        if v[i] < 0.5:
            return v.at[i].set(v[i] * w + 0.4)
        return v + w * 0.2

    return (tg.fori_loop(0, 4, body, x * tg.arange(4, dtype=F64)) ** 2).sum()


def truth_of_a_number(x, w):
    def body(i, y):
        return y * w if i else y + w

    return tg.fori_loop(0, 4, body, x)


def truth_from_around(x, w):
    def body(i, y):
        if x > 0.2:
            y = y * w
        return y + 0.1 if y > 0.5 else y * 2

    return tg.fori_loop(0, 4, body, x)


def asserted(x, w):
    def body(i, y):
        assert y < 100.0, "too large"
        if y < -100.0:
            raise ValueError("too small")
        return y * w + 0.2

    return tg.fori_loop(0, 4, body, x)


def numbers_and_tensors(x, w):
    def step(c, s):
        if s > 2.0:
            return c + x, 1
        if s > 1.0:
            return c, 0.25
        return c * w, s * w

    last, rows = tg.scan(step, 0.0, tg.arange(4, dtype=F64))
    return last + (rows * x).sum()


# -------------------------------------------------------------------------- loops of Python inside


def while_in_fori(x, w):
    def body(i, y):
        while y < 3.0:
            y = y * w + 0.4
        return y * 0.3

    return tg.fori_loop(0, 4, body, x)


def while_with_if(x, w):
    def body(i, y):
        k = 0
        while y < 4.0:
            if y > 2.0:
                y = y + x * x + 0.1
            else:
                y = y * w + 0.3
            k = k + 1
        return y * 0.2 + k * 0.01

    return tg.fori_loop(0, 4, body, x)


def while_with_break(x, w):
    def step(c, s):
        while True:
            c = c * w + 0.2
            if c > s:
                break
        return c * 0.5, c

    last, rows = tg.scan(step, x, tg.arange(1, 5, dtype=F64))
    return last + rows.sum()


def range_of_the_index(x, w):
    def body(i, y):
        for j in range(i):
            y = (y * w).sin() + x * 0.1 * j
        return y

    return tg.fori_loop(0, 5, body, x)


def long_range_with_if(x, w):
    def body(i, y):
        for _ in range(12):
            if y > 0.8:
                y = y * 0.6
            else:
                y = y + w * 0.1
        return y * w

    return tg.fori_loop(0, 3, body, x)


def range_with_break(x, w):
    def row(s):
        y = x
        for _ in range(20):
            y = y * w + s * 0.05
            if y > 2.0:
                break
        return y

    return tg.map(row, tg.arange(4, dtype=F64)).sum()


def loops_in_loops(x, w):
    def body(i, y):
        for _ in range(i + 1):
            z = y
            while z > 0.5:
                z = z * 0.6
            y = y * 0.5 + z * w
        return y + 0.3

    return tg.fori_loop(0, 4, body, x)


def if_around_while(x, w):
    def body(i, y):
        if i > 1:
            while y < 2.0:
                y = y * w + 0.5
            y = y * 0.2
        else:
            y = y + 0.1
        return y * y if y > 1.0 else y

    return tg.fori_loop(0, 5, body, x)


def while_in_cond(x, w):
    def slow(y):
        while y < 3.0:
            y = y * w + 0.4
        return y

    return tg.cond(x > 0.0, slow, lambda y: y * y, x)


def rows_in_scan(x, w):
    table = tg.arange(30, dtype=F64).reshape(10, 3) * 0.05

    def step(c, s):
        for row in table:
            c = c * 0.8 + (row * s).sum() * w if c < 1.0 else c * 0.5
        return c, c

    return tg.scan(step, x, tg.arange(3, dtype=F64))[1].sum()


def break_in_nested_loops(x, w):
    def body(i, y):
        for _ in range(i + 2):
            while y < 2.0:
                y = y * w + 0.1 + x * x
                if y > 1.7:
                    break
            y = y * 0.4
        return y

    return tg.fori_loop(0, 3, body, x)


def two_ways_on(x, w):
    def body(i, y):
        k = 0
        while True:
            if y > 1.0:
                y = y * 0.5
            else:
                y = y + 0.3 * w
            k = k + 1
            if k > 5:
                break
        return y

    return tg.fori_loop(0, 3, body, x)


CONDITIONS = {
    f.__name__: f
    for f in (
        if_in_fori,
        if_in_scan,
        if_in_reversed_scan,
        if_in_map,
        if_in_while,
        if_in_condition,
        if_in_cond,
        if_in_switch,
        both_sides,
        three_in_a_row,
        nested,
        early_return,
        vectors,
        truth_of_a_number,
        truth_from_around,
        asserted,
        numbers_and_tensors,
    )
}

LOOPS = {
    f.__name__: f
    for f in (
        while_in_fori,
        while_with_if,
        while_with_break,
        range_of_the_index,
        long_range_with_if,
        range_with_break,
        loops_in_loops,
        if_around_while,
        while_in_cond,
        rows_in_scan,
        break_in_nested_loops,
        two_ways_on,
    )
}

PROGRAMS = CONDITIONS | LOOPS
