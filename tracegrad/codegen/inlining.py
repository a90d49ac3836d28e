"""Fewer statements for the same program: copies disappear, and what is used once stands there.

A region may have thousands of statements, and each costs Numba's front end some time. Only names
that are assigned in one place take part, so that their value is the same wherever they are read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_ASSIGNMENT = re.compile(r"( *)(\w+) = (.*)")
_NAME = re.compile(r"\b[A-Za-z_]\w*\b")
# What reads memory, or changes something, stays where it is.
_FIXED = re.compile(r"\b(load\w*|read_word|store\w*|arena_\w+|depth_of|run_step|slot_\w+)\(")
# Longer expressions nest too deep for Python's parser.
_LONGEST = 320


def inlined(head: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The statements of a function's body, indented, without copies and single uses; those of its
    `head` come before, and stay.
    """
    return _single_uses(head, _without_copies(head, lines))


def _definitions(head: Sequence[str], lines: Sequence[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in (*head, *lines):
        match = _ASSIGNMENT.fullmatch(line)
        if match:
            found[match[2]] += 1
        elif line.lstrip().startswith("for "):
            # A loop variable changes.
            found[line.split()[1]] += 2
    return found


def _without_copies(head: Sequence[str], lines: Sequence[str]) -> list[str]:
    """`a = b` is dropped, and `b` read for `a`."""
    definitions = _definitions(head, lines)
    alias: dict[str, str] = {}
    result = []
    for line in lines:
        line = _NAME.sub(lambda found: alias.get(found[0], found[0]), line)
        match = _ASSIGNMENT.fullmatch(line)
        if match and definitions[match[2]] == definitions[match[3]] == 1:
            alias[match[2]] = match[3]
        else:
            result.append(line)
    return result


def _single_uses(head: Sequence[str], lines: Sequence[str]) -> list[str]:
    """An expression that is read once, by a later statement of the same block, moves there."""
    definitions = _definitions(head, lines)
    uses: Counter[str] = Counter()
    for line in lines:
        uses.update(_NAME.findall(line))
    # Of each name that may move: where it is in the result, and its expression.
    waiting: dict[str, tuple[int, str]] = {}
    result: list[str | None] = []
    indent = 0
    for line in lines:
        before, indent = indent, len(line) - len(line.lstrip())
        if indent != before:
            waiting.clear()
        match = _ASSIGNMENT.fullmatch(line)
        head, body = (f"{match[1]}{match[2]} = ", match[3]) if match else ("", line)
        for name in dict.fromkeys(_NAME.findall(body)):
            if name not in waiting:
                continue
            position, expression = waiting.pop(name)
            if not body.endswith(":") and len(body) + len(expression) <= _LONGEST:
                body = re.sub(rf"\b{name}\b", f"({expression})", body)
                result[position] = None
        result.append(head + body)
        if match and definitions[match[2]] == 1 and uses[match[2]] == 2:
            settled = all(definitions[name] <= 1 for name in _NAME.findall(body))
            if settled and not _FIXED.search(body):
                waiting[match[2]] = len(result) - 1, body
    return [line for line in result if line is not None]
