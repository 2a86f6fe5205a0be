"""The floors of the design: what may import what, and how a module looks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_nsbox

PACKAGE = Path(pytest_nsbox.__file__).parent
MODULES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
_LINES = 600

every_module = pytest.mark.parametrize("module", MODULES)


def below(*floors: str) -> list[str]:
    """The modules of these floors."""
    return [name for name in MODULES if name.startswith(tuple(f"{floor}/" for floor in floors))]


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """Every module that is imported anywhere in it, by its full name."""
    return {name for _, name in _imports(tree(module), "", module)}


def importing_functions(module: str, package: str) -> set[str]:
    """The functions in which the package is imported; "" is the module itself."""
    found = _imports(tree(module), "", module)
    return {function for function, name in found if is_in(name, package)}


def _imports(node: ast.AST, function: str, module: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((function, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            package = ["pytest_nsbox", *Path(module).parent.parts]
            base = package[: len(package) - child.level + 1] if child.level else []
            start = ".".join([*base, *([child.module] if child.module else [])])
            # `from a import b` may mean the module a.b; as a name it does no harm here.
            yield from ((function, f"{start}.{alias.name}") for alias in child.names)
        inner = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        yield from _imports(child, child.name if inner else function, module)  # type: ignore[attr-defined]


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_modules_are_found() -> None:
    assert {"plugin.py", "options.py", "kernel/syscalls.py", "run/controller.py"} <= set(MODULES)


@pytest.mark.parametrize("module", below("sandbox", "kernel"))
def test_the_lower_floors_know_nothing_of_pytest(module: str) -> None:
    strangers = ("pytest", "_pytest", "pluggy")
    assert [n for n in imports(module) if any(is_in(n, package) for package in strangers)] == []


@pytest.mark.parametrize(
    ("module", "floors"),
    [
        *((module, ["pytest_nsbox.kernel"]) for module in below("kernel")),
        *((module, ["pytest_nsbox.kernel", "pytest_nsbox.sandbox"]) for module in below("sandbox")),
    ],
)
def test_a_lower_floor_imports_nothing_from_above(module: str, floors: list[str]) -> None:
    ours = [name for name in imports(module) if is_in(name, "pytest_nsbox")]
    assert [name for name in ours if not any(is_in(name, floor) for floor in floors)] == []


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(below("run"))))
def test_only_the_floor_that_runs_items_uses_the_private_parts_of_pytest(module: str) -> None:
    assert [name for name in imports(module) if is_in(name, "_pytest")] == []


@every_module
def test_pyroute2_is_imported_only_where_a_network_is_configured(module: str) -> None:
    allowed = {
        "sandbox/network.py": {"bring_up_loopback"},
    }
    assert importing_functions(module, "pyroute2") <= allowed.get(module, set())


@every_module
def test_a_module_says_in_one_line_what_it_is(module: str) -> None:
    first, *rest = (ast.get_docstring(tree(module)) or "").split("\n")
    assert first.strip()
    assert not rest or rest[0] == "", "the first line is a paragraph of its own"
    assert first.endswith((".", "?", "!"))


@every_module
def test_a_module_is_no_longer_than_one_can_read(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= _LINES
