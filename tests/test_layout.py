"""Imports go down only, Numba stays in its rooms, and no file is a drawer for odds and ends."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tracegrad"

# The rooms and their floors. What the table does not name is part of the face, beside __init__.py.
FLOORS = {
    "errors": 0,
    "config": 0,
    "log": 0,
    "ir": 1,
    "codegen": 2,
    "runtime": 3,
    "tracer": 4,
}
FACE = 5

# Packages that compile or launch, and where they may be imported. `codegen` is graph to text,
# except for what holds the functions which generated source calls.
COMPILERS = {"cuda", "llvmlite", "numba", "numba_cuda", "nvmath"}
MAY_COMPILE = (
    "tracegrad.runtime",
    "tracegrad.codegen.primitives",
    "tracegrad.codegen.cuda_primitives",
    "tracegrad.codegen.processor",
    "tracegrad.codegen.vector_library",
)

DRAWERS = {"utils", "util", "helpers", "helper", "misc", "common"}


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name, and where the import stands."""

    target: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.target}"


def module_name(path: Path, root: Path) -> str:
    """The dotted name of the module that a file defines: ``tracegrad.ir`` for its __init__.py."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    """The floor that a module of the package stands on."""
    parts = module.split(".")
    return FLOORS.get(parts[1], FACE) if len(parts) > 1 else FACE


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Every import in a file: also inside functions, under TYPE_CHECKING and by import_module."""
    module = module_name(path, root)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, path, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                above = above[: len(above) - (node.level - 1)]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                # `from tracegrad import ir` names a room, `from tracegrad import Tensor` the face.
                submodule = f"{base}.{alias.name}"
                yield Import(submodule if is_module(submodule, root) else base, path, node.lineno)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            name = node.args[0]
            if (
                called in {"import_module", "__import__"}
                and isinstance(name, ast.Constant)
                and isinstance(name.value, str)
            ):
                yield Import(name.value, path, node.lineno)


def is_module(name: str, root: Path) -> bool:
    """Whether a dotted name is a module or package under `root`."""
    path = root.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def upward_imports(root: Path) -> list[str]:
    """The imports from a floor to a higher one."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        here = floor(module_name(path, root))
        for imported in imports_of(path, root):
            ours = imported.target.split(".")[0] == PACKAGE
            if ours and floor(imported.target) > here:
                found.append(f"{imported} (floor {here} to {floor(imported.target)})")
    return found


def misplaced_compilers(root: Path) -> list[str]:
    """The imports of Numba and its like outside the rooms that may compile."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        module = module_name(path, root)
        if any(module == room or module.startswith(f"{room}.") for room in MAY_COMPILE):
            continue
        found += [
            str(imported)
            for imported in imports_of(path, root)
            if imported.target.split(".")[0] in COMPILERS
        ]
    return found


def write_package(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_imports_go_down_only():
    assert upward_imports(ROOT) == []


def test_numba_stays_in_its_rooms():
    assert misplaced_compilers(ROOT) == []


def test_no_file_is_a_drawer():
    files = [*(ROOT / PACKAGE).rglob("*"), *(ROOT / "tests").rglob("*")]
    assert [str(path) for path in files if path.stem in DRAWERS] == []


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("ir/graph.py", "import tracegrad.codegen"),
        ("ir/graph.py", "import tracegrad.codegen.fusion as fusion"),
        ("ir/graph.py", "from tracegrad import runtime"),
        ("ir/graph.py", "from tracegrad import Tensor"),
        ("ir/graph.py", "import tracegrad"),
        ("ir/graph.py", "from .. import tracer"),
        ("ir/graph.py", "from ..tracer import Tensor"),
        ("ir/ops/math.py", "from ...tracer.tensor import Tensor"),
        ("ir/__init__.py", "from ..runtime import devices"),
        ("codegen/cpu.py", "from tracegrad.runtime.devices import Device"),
        ("runtime/run.py", "def lazily():\n    from tracegrad.tracer import Tensor\n"),
        (
            "runtime/run.py",
            "if TYPE_CHECKING:\n    from tracegrad import Tensor\n",
        ),
        ("runtime/run.py", "import importlib\nimportlib.import_module('tracegrad.tracer')"),
        ("tracer/tensor.py", "from tracegrad.functional import softmax"),
        ("errors.py", "from tracegrad.ir import Graph"),
        ("log.py", "from tracegrad.runtime import devices"),
    ],
)
def test_an_upward_import_is_caught(tmp_path, where, text):
    rooms = {f"{room}/__init__.py": "" for room in ("ir", "codegen", "runtime", "tracer")}
    write_package(tmp_path, {"__init__.py": "", "functional.py": "", **rooms, where: text})
    found = upward_imports(tmp_path)
    assert len(found) == 1
    assert found[0].replace("\\", "/").startswith(f"{(tmp_path / PACKAGE / where).as_posix()}:")


def test_a_downward_import_is_not_caught(tmp_path):
    write_package(
        tmp_path,
        {
            "__init__.py": "from tracegrad.tracer import Tensor\nfrom . import functional\n",
            "functional.py": "from tracegrad.tracer import Tensor\n",
            "errors.py": "",
            "config.py": "",
            "log.py": "from tracegrad.config import config\n",
            "ir/__init__.py": "from .graph import Graph\n",
            "ir/graph.py": "import numpy\nfrom ..errors import ShapeError\nfrom . import types\n",
            "ir/types.py": "from tracegrad import log\n",
            "tracer/__init__.py": "from tracegrad.runtime import devices\nfrom .. import ir\n",
            "runtime/__init__.py": "import numba\n",
            "runtime/devices.py": "from numba.core import types\n",
            "codegen/primitives.py": "import llvmlite.ir\n",
        },
    )
    assert upward_imports(tmp_path) == []
    assert misplaced_compilers(tmp_path) == []


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("ir/graph.py", "import numba"),
        ("tracer/tensor.py", "def lazily():\n    from numba import njit\n"),
        ("codegen/fusion.py", "from numba.core import types"),
        ("codegen/primitives_of_cuda.py", "import numba"),
        ("log.py", "import llvmlite.binding"),
        ("__init__.py", "import numba"),
    ],
)
def test_misplaced_numba_is_caught(tmp_path, where, text):
    write_package(tmp_path, {where: text})
    assert len(misplaced_compilers(tmp_path)) == 1


def test_import_of_the_package_does_not_import_numba():
    # Numba takes longer to import than everything else together; eager users never need it.
    program = (
        "import sys, tracegrad; "
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'numba', 'llvmlite'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
