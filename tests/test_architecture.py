"""The structure of the code, as CONTRIBUTING.md and docs/design.md promise it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("app", "model", "cache")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
FORBIDDEN = {"app": (), "model": ("app", "cache"), "cache": ("app", "model")}
MAX_FILE, MAX_CLASS, MAX_FUNCTION, MAX_PARAMETERS = 400, 200, 60, 8
REASON = re.compile(r"\b(because|so that|one after|by its nature)\b", re.IGNORECASE)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("tilecascade", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path, lazy: bool = True) -> Iterator[str]:
    """The project's modules that a file imports; without those inside functions, unless lazy."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tilecascade."):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def test_no_import_runs_upwards() -> None:
    for path in FILES:
        room = path.relative_to(ROOT).parts[0]
        for module in imports(path):
            assert module.split(".")[1] not in FORBIDDEN[room], f"{path} imports {module}"
        assert not re.search(r"^\s*(?:from|import) (?:app|model|cache)\b", path.read_text(), re.MULTILINE), path


def test_there_is_no_circle_of_imports() -> None:
    graph = {module: set(imports(path, lazy=False)) - {module} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_client_never_imports_the_server() -> None:
    for path in (ROOT / "app" / "client").glob("*.py"):
        for module in imports(path):
            assert not module.startswith(("tilecascade.app.server", "tilecascade.app.service")), (path, module)
    for path in (ROOT / "app").rglob("*.py"):
        if path.parent.name not in ("api", "server", "cli"):
            names = {module for module in imports(path) if module.startswith("tilecascade.app.api")}
            assert names <= {"tilecascade.app.api.schemas"}, f"{path} imports {names}: only api/ knows HTTP requests"


def test_app_has_few_entries() -> None:
    entries = [path.name for path in (ROOT / "app").iterdir() if not path.name.startswith("__")]
    assert len(entries) <= 14, entries


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes_stay_readable(path: Path) -> None:
    """Longer functions, or with more parameters, say in their docstring why."""
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_CLASS, node.name
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = node.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            long = (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION or count > MAX_PARAMETERS
            assert not long or REASON.search(ast.get_docstring(node) or ""), f"{node.name}: {count} parameters"


def test_every_package_is_listed_for_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    kept = (".py", ".html", ".js", ".css", ".toml", ".json", ".safetensors")
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in kept}
    assert sorted(listed) == sorted("tilecascade." + ".".join(f.relative_to(ROOT).parts) for f in folders)


def test_the_way_of_a_tile_names_functions_that_exist() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    way = text.split("## A tile's way")[1].split("\n## ")[0]
    assert way.count("\n") <= 40
    names = re.findall(r"`([A-Za-z_.]+)`", way)
    defined = {
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    for name in names:
        if "/" not in name and not name.endswith(".py"):
            assert all(part in defined for part in name.split(".")), name
    glossary = text.split("## Glossary")[1].split("\n## ")[0]
    assert len(re.findall(r"^\| (?!term|---)", glossary, re.MULTILINE)) <= 25
