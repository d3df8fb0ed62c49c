"""The staircase: a module imports only what stands above it in one list."""

import ast
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(str(files("channels_admission")))

FLOORS = [
    "",
    "exceptions",
    "types",
    "faults",
    "reserve",
    "signals",
    "values",
    "address",
    "quotas",
    "hosts",
    "thresholds",
    "recipients",
    "conf",
    "sizing",
    "policy",
    "agreement",
    "rules",
    "attempts",
    "fairness",
    "claims",
    "pace",
    "trigger",
    "kernel",
    "memory",
    "room",
    "monitors",
    "reader",
    "worker",
    "notices",
    "refusal",
    "slot",
    "holders",
    "ledger.base",
    "ledger.moments",
    "ledger.rings",
    "ledger.memory",
    "ledger.controls",
    "ledger.record",
    "ledger.redis",
    "ledger",
    "account",
    "servers",
    "servers.daphne",
    "servers.uvicorn",
    "pressure",
    "ahead",
    "connection",
    "drain",
    "lookout",
    "journal",
    "outbox",
    "alerts",
    "timetable",
    "patience",
    "verdicts",
    "handshakes",
    "conversation",
    "gate",
    "stopping",
    "house",
    "controls",
    "snapshot",
    "history",
    "facts",
    "case",
    "finding",
    "demand",
    "strain",
    "diagnosis",
    "shape",
    "closing",
    "hold",
    "origin",
    "middleware",
    "lifespan",
    "readiness",
    "consumers",
    "render",
    "sparkline",
    "watch",
    "plugin",
    "advice",
    "client",
    "printout",
    "metrics",
    "checks",
    "models",
    "views",
    "actions",
    "endpoints",
    "urls",
    "admin",
    "templatetags",
    "templatetags.channels_admission",
    "apps",
    "command",
    "management",
    "management.commands",
    "management.commands.ws_drain",
    "management.commands.ws_dry_run",
    "management.commands.ws_limit",
    "management.commands.ws_pause",
    "management.commands.ws_status",
]
"""Every module, from the lowest floor up, named from the package on."""

LATE = {"apps": {"checks", "servers.daphne"}, "endpoints": {"metrics"}}
"""Own modules imported inside functions: an app's checks need its models, which are there once it is ready, and the
metrics a library that may be missing."""

Import = tuple[str, bool]
"""The full name of a module, and whether it is imported as its file is read, not by a function."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imports(name: str, source: str, is_package: bool) -> Iterator[Import]:
    """What a module imports; for ``from a import b`` both ``a.b``, where that is a module, and else ``a``."""
    package = ["channels_admission", *name.split(".")] if name else ["channels_admission"]
    package = package if is_package else package[:-1]

    def walk(node: ast.AST, early: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, early) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield (inner if own(inner) in MODULES else origin, early)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, early and not inside)

    yield from walk(ast.parse(source), True)


def own(module: str) -> str | None:
    """The name of a module of the package from the package on, or None for others."""
    if module == "channels_admission":
        return ""
    return module.removeprefix("channels_admission.") if module.startswith("channels_admission.") else None


def imported(name: str) -> list[Import]:
    path = MODULES[name]
    return list(imports(name, path.read_text(), path.name == "__init__.py"))


def test_every_module_stands_on_a_floor():
    assert sorted(FLOORS) == sorted(MODULES)


@pytest.mark.parametrize("name", FLOORS)
def test_imports_only_go_down(name):
    below = FLOORS[: FLOORS.index(name)]
    ours = {floor for module, _ in imported(name) if (floor := own(module)) is not None}
    assert sorted(ours - {*below}) == []


@pytest.mark.parametrize("name", FLOORS)
def test_own_modules_are_imported_at_the_top(name):
    late = {floor for module, early in imported(name) if not early and (floor := own(module)) is not None}
    assert late == LATE.get(name, set())


def test_redis_is_imported_in_one_module():
    using = {name for name in MODULES for module, _ in imported(name) if module.split(".")[0] == "redis"}
    assert using == {"ledger.redis"}


@pytest.mark.parametrize(
    ("name", "is_package", "source", "expected"),
    [
        ("gate", False, "from . import conf, policy", [("conf", True), ("policy", True)]),
        ("gate", False, "from .ledger import open_ledger", [("ledger", True)]),
        ("ledger.redis", False, "from ..conf import Settings", [("conf", True)]),
        ("ledger.redis", False, "from .base import OutOfOrder", [("ledger.base", True)]),
        ("ledger", True, "from ..conf import NAME\nfrom .base import Ledger", [("conf", True), ("ledger.base", True)]),
        ("", True, "from .gate import gate_of", [("gate", True)]),
        ("gate", False, "from channels_admission.ledger import base", [("ledger.base", True)]),
        ("gate", False, "import channels_admission.conf as c", [("conf", True)]),
        ("gate", False, "from channels_admission import __version__", [("", True)]),
        ("apps", False, "class A:\n def ready(self):\n  from . import checks", [("checks", False)]),
        ("gate", False, "try:\n from . import conf\nexcept ImportError: pass", [("conf", True)]),
    ],
)  # fmt: skip
def test_imports_are_recognised(name, is_package, source, expected):
    assert [(own(module), early) for module, early in imports(name, source, is_package)] == expected
