"""The staircase: a module imports only from those above it in this list."""

import ast
from pathlib import Path

import pytest

import channels_admission

ROOT = Path(channels_admission.__file__).parent
STAIRCASE = [
    "",
    "exceptions",
    "types",
    "conf",
    "policy",
    "worker",
    "refusal",
    "ledger.base",
    "ledger.memory",
    "ledger.redis",
    "ledger",
    "account",
    "servers",
    "servers.daphne",
    "gate",
    "snapshot",
    "middleware",
    "consumers",
    "render",
    "checks",
    "models",
    "views",
    "templatetags",
    "templatetags.channels_admission",
    "admin",
    "apps",
    "management",
    "management.commands",
    "management.commands.ws_status",
]
PATHS = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix("__init__").removesuffix("."): path
    for path in ROOT.rglob("*.py")
}


def imports(name: str) -> list[tuple[ast.stmt, str]]:
    """Every import statement of a module, with each module it names, absolute."""
    path = PATHS[name]
    package = ["channels_admission", *name.split(".")] if name else ["channels_admission"]
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            depth = node.level - (path.name == "__init__.py")
            base = (
                ".".join([*package[: len(package) - depth], *filter(None, [node.module])])
                if node.level
                else node.module
            )
            found += [(node, f"{base}.{alias.name}") for alias in node.names]
    return found


def own(target: str) -> str | None:
    """The module of ours that ``target`` is, or is a name in."""
    if target.split(".")[0] != "channels_admission":
        return None
    parts = target.split(".")[1:]
    return ".".join(parts) if ".".join(parts) in PATHS else ".".join(parts[:-1])


def test_every_module_has_its_step():
    assert sorted(STAIRCASE) == sorted(PATHS)


@pytest.mark.parametrize("name", STAIRCASE)
def test_imports_go_down(name):
    below = STAIRCASE[: STAIRCASE.index(name)]
    assert [target for _, target in imports(name) if (module := own(target)) is not None and module not in below] == []


@pytest.mark.parametrize("name", [name for name in STAIRCASE if name != "apps"])
def test_own_modules_are_imported_at_the_top(name):
    top = ast.parse(PATHS[name].read_text()).body
    lines = {node.lineno for node in top}
    assert [target for node, target in imports(name) if own(target) is not None and node.lineno not in lines] == []


def test_redis_is_imported_in_one_module():
    assert {name for name in STAIRCASE for _, target in imports(name) if target.split(".")[0] == "redis"} == {
        "ledger.redis"
    }
