"""The order of the folders: a module imports only from its own layer and those above it in one list."""

import ast
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

PACKAGE = "channels_admission"
ROOT = Path(str(files(PACKAGE)))

LAYERS: tuple[tuple[str, ...], ...] = (
    ("", "exceptions", "signals", "core", "types", "pytest_plugin"),
    ("conf",),
    ("runtime",),
    ("ledger",),
    ("overload",),
    ("quotas",),
    ("events",),
    ("limiter",),
    ("middleware", "consumers", "lifespan", "readiness"),
    ("controls",),
    ("testing",),
    ("status",),
    ("web",),
    ("admin", "apps", "management", "models", "templatetags", "urls"),
)
"""Folders and top-level modules, from the lowest layer up."""
ALONE = "client"
"""Imports nothing of the package, and nothing imports it."""


def rooms(path: Path) -> str:
    """The folder or top-level module that ``path`` belongs to."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py").removesuffix("__init__")


MODULES = sorted(ROOT.rglob("*.py"))


def imports(source: str, path: Path) -> Iterator[tuple[str, bool]]:
    """The rooms that a module imports from, and whether it does so as its file is read, not in a function."""
    package = path.relative_to(ROOT).parent.parts

    def walk(node: ast.AST, early: bool) -> Iterator[tuple[str, bool]]:
        for name in _names(node, package):
            yield name.partition(".")[0], early
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, early and not inside)

    return walk(ast.parse(source), True)


def _names(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """What one statement imports, named from the package on."""
    if isinstance(node, ast.Import):
        whole = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) + 1 - node.level] if node.level else ()
        origin = ".".join([*([PACKAGE, *above] if node.level else []), *([node.module] if node.module else [])])
        whole = [f"{origin}.{alias.name}" for alias in node.names] if origin == PACKAGE else [origin]
    else:
        return
    for name in whole:
        if name == PACKAGE or name.startswith(f"{PACKAGE}."):
            yield name.removeprefix(PACKAGE).removeprefix(".")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def test_every_module_is_in_a_layer():
    assert {rooms(path) for path in MODULES} == {room for layer in LAYERS for room in layer} | {ALONE}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_go_down(path):
    room = rooms(path)
    found = {each for each, _ in imports(path.read_text(), path) if (ROOT / each).is_dir() or each}
    # ``from . import __version__`` is of the package itself.
    found = {each if any(each in layer for layer in LAYERS) or each == ALONE else "" for each in found}
    if room == ALONE:
        assert found <= {""}
        return
    height = next(height for height, layer in enumerate(LAYERS) if room in layer)
    assert found <= {each for layer in LAYERS[: height + 1] for each in layer}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_own_modules_are_imported_at_the_top(path):
    assert {room for room, early in imports(path.read_text(), path) if not early} == set()


def test_redis_is_imported_in_one_folder():
    def uses_redis(path: Path) -> bool:
        nodes = ast.walk(ast.parse(path.read_text()))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        nodes = ast.walk(ast.parse(path.read_text()))
        names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
        return any(name.partition(".")[0] == "redis" for name in names)

    assert {name_of(path.parent) for path in MODULES if uses_redis(path)} == {"ledger/redis"}


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("limiter/limiter.py", "from ..core import levels", [("core", True)]),
        ("limiter/limiter.py", "from .. import conf, signals", [("conf", True), ("signals", True)]),
        ("limiter/limiter.py", "from .state import State", [("limiter", True)]),
        ("limiter/__init__.py", "from . import state", [("limiter", True)]),
        ("middleware.py", "from . import conf", [("conf", True)]),
        ("middleware.py", "from .limiter.registry import limiter_of", [("limiter", True)]),
        ("middleware.py", "import channels_admission.conf as c", [("conf", True)]),
        ("middleware.py", "from channels_admission.ledger import base", [("ledger", True)]),
        ("apps.py", "class A:\n def ready(self):\n  from . import management", [("management", False)]),
        ("apps.py", "try:\n from . import conf\nexcept ImportError: pass", [("conf", True)]),
    ],
)
def test_imports_are_recognised(path, source, expected):
    assert list(imports(source, ROOT / path)) == expected
