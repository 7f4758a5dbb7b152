"""Imports point down, and both lists of operators are one."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rsn2
import rsn2_kernels
from rsn2_kernels import reference
from rsn2_kernels._schema import HAS_NATIVE, NAMESPACE, SCHEMAS, operator

FOLDERS = {"rsn2_kernels": Path(rsn2_kernels.__file__).parent, "rsn2": Path(rsn2.__file__).parent}

# Lowest first. A layer imports only what stands before it, and itself; those in one line may import each other.
# A package's own __init__ stands above all.
LAYERS = {
    "rsn2_kernels": [
        ["_cuda"],
        ["_build"],
        ["formats"],
        ["reference"],
        ["_schema"],
        ["triton_kernels"],
        ["_answers"],
        ["ops"],
        ["autograd"],
        ["nn"],
        ["testing"],
    ],
    "rsn2": [
        ["memory", "pooling"],
        ["data"],
        ["models"],
        ["metrics"],
        ["adding", "exporting", "routing", "network", "architecture", "checkpoint"],
        ["procedure"],
        ["methods"],
        ["experiments"],
        ["report"],
        ["demo"],
        ["cli"],
    ],
}


def level_of(package: str, layer: str) -> int | None:
    """How high a layer stands, ``None`` where it has no place."""
    levels = [level for level, layers in enumerate(LAYERS[package]) if layer in layers]
    return levels[0] if levels else None


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module of a package."""
    for path in sorted(FOLDERS[package].rglob("*.py")):
        parts = path.relative_to(FOLDERS[package]).with_suffix("").parts
        yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def imports(name: str, path: Path) -> set[str]:
    """Dotted names that a module imports, at any depth: ``from a import b`` counts as ``a.b``."""
    found = set()
    is_package = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parents = name.split(".")[: -(node.level - is_package) or None]
                start = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return found


ALL = [(package, name, path) for package in LAYERS for name, path in modules(package)]
every_module = pytest.mark.parametrize(("package", "name", "path"), ALL, ids=[name for _, name, _ in ALL])


@every_module
def test_has_a_place(package, name, path):
    parts = name.split(".")
    assert len(parts) == 1 or level_of(package, parts[1]) is not None, f"give {name} a place in LAYERS"


@every_module
def test_imports_point_down(package, name, path):
    parts = name.split(".")
    if len(parts) == 1:
        return
    own_level = level_of(package, parts[1])
    for imported in imports(name, path):
        target = imported.split(".")
        if target[0] == package and len(target) > 1:
            level = level_of(package, target[1])
            assert level is None or level <= own_level, f"{name} imports {imported}, which stands above it"
        if package == "rsn2_kernels":
            assert target[0] != "rsn2", f"{name} imports {imported}; rsn2 stands above rsn2_kernels"


@every_module
def test_kernels_depend_on_torch_alone(package, name, path):
    """rsn2_kernels depends on torch and nothing else; only its Triton kernels import Triton."""
    if package != "rsn2_kernels":
        return
    allowed = {"torch", "rsn2_kernels", *sys.stdlib_module_names}
    if name.startswith("rsn2_kernels.triton_kernels"):
        allowed.add("triton")
    assert {imported.split(".")[0] for imported in imports(name, path)} <= allowed


def test_imports_are_found(tmp_path):
    """The reading of imports above can fail."""
    path = tmp_path / "module.py"
    path.write_text("import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\ndef h():\n    from ..i import j\n")
    assert imports("p.q.r", path) == {"a.b", "c.d", "p.q.e", "p.q.f.g", "p.i.j"}


def normalised(schema: str) -> str:
    return str(torch._C.parse_schema(schema))


@pytest.mark.parametrize("name", SCHEMAS)
def test_operator_has_the_schema_of_the_list(name):
    """Whoever defined it: the compiled library, or the package itself."""
    assert str(operator(name)._schema) == normalised(f"{NAMESPACE}::{name}{SCHEMAS[name]}")


def test_compiled_library_defines_the_same_operators():
    source = FOLDERS["rsn2_kernels"].parent / "csrc" / "library.cpp"
    if not source.exists():
        pytest.skip("the package is installed without its sources")
    definitions = re.findall(r"m\.def\(([^;]*)\);", source.read_text())
    compiled = ["".join(re.findall(r'"([^"]*)"', definition)) for definition in definitions]
    assert [normalised(schema) for schema in compiled] == [normalised(name + SCHEMAS[name]) for name in SCHEMAS]


@pytest.mark.parametrize("name", SCHEMAS)
def test_compiled_library_has_a_kernel_for_the_cpu(name):
    if not HAS_NATIVE:
        pytest.skip("no compiled kernels here")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", "CPU")


@pytest.mark.parametrize("name", SCHEMAS)
def test_reference_has_the_arguments_of_the_schema(name):
    arguments = [argument.name for argument in operator(name)._schema.arguments]
    assert list(inspect.signature(getattr(reference, name)).parameters) == arguments


def test_reference_is_complete():
    assert sorted(reference.__all__) == sorted(SCHEMAS)
