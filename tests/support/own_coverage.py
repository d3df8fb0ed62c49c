"""Line coverage of each module by its own test file alone.

``coverage run`` of the tests notes which test file was running; run as a program, this prints what came of it.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import coverage

TESTS = Path(__file__).resolve().parent.parent
PACKAGE = TESTS.parent / "channels_admission"

COVERED_BY = {
    "__init__": "project/test_package.py",
    "apps": "unit/management/test_checks.py",
    "conf/keys": "unit/conf/test_conf.py",
    "conf/ledger": "unit/conf/test_conf.py",
    "conf/overload": "unit/conf/test_conf.py",
    "conf/proxies": "unit/quotas/test_address.py",
    "conf/shares": "unit/conf/test_quotas.py",
    "conf/validators": "unit/conf/test_conf.py",
    "core/herd/bucket": "unit/core/herd/test_rate.py",
    "core/levels": "contract/test_overrides.py",
    "core/overrides": "contract/test_overrides.py",
    "core/protocol": "contract/test_ledger.py",
    "core/quotas/holders": "contract/test_oldest.py",
    "core/quotas/quota": "contract/test_ledger.py",
    "core/quotas/shares": "unit/quotas/test_claims.py",
    "core/readings": "unit/management/test_ws_status.py",
    "events/messages": "unit/limiter/test_limiter.py",
    "exceptions": "unit/conf/test_conf.py",
    "ledger/__init__": "contract/test_hosts.py",
    "ledger/base": "contract/test_ledger.py",
    "ledger/buckets": "contract/test_attempts.py",
    "ledger/codec": "contract/test_ledger.py",
    "ledger/history": "contract/test_ledger.py",
    "ledger/memory/__init__": "contract/test_ledger.py",
    "ledger/memory/agreement": "contract/test_differential.py",
    "ledger/memory/claims": "contract/test_differential.py",
    "ledger/memory/clock": "contract/test_differential.py",
    "ledger/memory/counters": "contract/test_ledger.py",
    "ledger/memory/grants": "contract/test_differential.py",
    "ledger/memory/levels": "contract/test_differential.py",
    "ledger/memory/main": "contract/test_ledger.py",
    "ledger/memory/orders": "contract/test_overrides.py",
    "ledger/memory/pool": "contract/test_ledger.py",
    "ledger/memory/tickets": "contract/test_tickets.py",
    "ledger/overrides": "contract/test_overrides.py",
    "ledger/redis/__init__": "contract/test_hosts.py",
    "ledger/redis/argument": "contract/test_hosts.py",
    "ledger/redis/cluster": "contract/test_hosts.py",
    "ledger/redis/connections": "unit/ledger/test_connections.py",
    "ledger/redis/errors": "contract/test_hosts.py",
    "ledger/redis/names": "unit/ledger/test_names.py",
    "limiter/books/in_force": "unit/limiter/test_limiter.py",
    "limiter/books/slots": "unit/limiter/test_limiter.py",
    "limiter/books/state": "unit/limiter/test_limiter.py",
    "limiter/calls/schedule": "unit/limiter/calls/test_reconciler.py",
    "limiter/connections/ahead": "unit/limiter/connections/test_unanswered.py",
    "limiter/connections/slot": "unit/test_middleware.py",
    "limiter/lookout": "unit/limiter/connections/test_unanswered.py",
    "limiter/queue": "unit/limiter/test_limiter.py",
    "limiter/refusing": "unit/limiter/test_hold.py",
    "limiter/registry": "unit/limiter/test_limiter.py",
    "limiter/verdicts": "unit/limiter/test_decisions.py",
    "management/base": "unit/management/test_commands.py",
    "management/commands/ws_capacity": "unit/management/test_ws_capacity.py",
    "management/commands/ws_drain": "unit/management/test_commands.py",
    "management/commands/ws_dry_run": "unit/management/test_commands.py",
    "management/commands/ws_limit": "unit/management/test_commands.py",
    "management/commands/ws_pause": "unit/management/test_commands.py",
    "management/commands/ws_status": "unit/management/test_ws_status.py",
    "management/layers": "unit/management/test_checks.py",
    "management/routes": "unit/management/test_routing.py",
    "management/terminal/diagnosis": "unit/status/diagnostics/test_diagnostics.py",
    "management/terminal/layout": "unit/management/test_ws_status.py",
    "management/terminal/schema": "unit/management/test_ws_status.py",
    "management/terminal/status": "unit/management/test_ws_status.py",
    "models": "unit/test_admin.py",
    "overload/kernel": "unit/overload/test_monitors.py",
    "overload/memory": "unit/overload/test_monitors.py",
    "overload/sampler": "unit/overload/test_manager.py",
    "overload/trigger": "unit/overload/test_manager.py",
    "quotas/ages": "unit/quotas/test_oldest.py",
    "quotas/requests": "unit/quotas/test_claims.py",
    "runtime/daphne": "unit/runtime/test_servers.py",
    "runtime/faults": "unit/limiter/calls/test_reconciler.py",
    "runtime/shutdown": "unit/test_lifespan.py",
    "runtime/uvicorn": "unit/runtime/test_servers.py",
    "status/cache": "unit/test_admin.py",
    "status/diagnostics/agreement": "unit/status/diagnostics/test_diagnostics.py",
    "status/diagnostics/finding": "unit/status/diagnostics/test_diagnostics.py",
    "status/diagnostics/herd": "unit/status/diagnostics/test_diagnostics.py",
    "status/diagnostics/host": "unit/status/diagnostics/test_diagnostics.py",
    "status/diagnostics/incidents": "unit/status/diagnostics/test_diagnostics.py",
    "status/diagnostics/ledger": "unit/status/diagnostics/test_diagnostics.py",
    "status/diagnostics/model": "unit/status/diagnostics/test_diagnostics.py",
    "status/diagnostics/pools": "unit/status/diagnostics/test_diagnostics.py",
    "status/diagnostics/workers": "unit/status/diagnostics/test_diagnostics.py",
    "status/snapshot": "unit/management/test_ws_status.py",
    "status/values": "unit/management/test_ws_status.py",
    "templatetags/channels_admission": "unit/test_admin.py",
    "urls": "unit/web/test_views.py",
    "web/families": "unit/web/test_metrics.py",
}
"""The test file of each module that has none of its name."""


def modules() -> list[str]:
    """Every module that does something, as a path in the package."""
    found = (path.relative_to(PACKAGE).with_suffix("").as_posix() for path in sorted(PACKAGE.rglob("*.py")))
    return [module for module in found if _statements(module)]


def namesake(module: str) -> Path:
    """The place of a module's test of its name, from ``tests/``; that of a folder is named after the folder."""
    path = Path("unit", module)
    if path.name == "__init__":
        path = path.parent / path.parent.name
    return path.with_name(f"test_{path.name}.py")


def own_test(module: str) -> Path:
    own = namesake(module)
    return own if (TESTS / own).exists() else Path(COVERED_BY[module])


def _statements(module: str) -> list[ast.stmt]:
    body = ast.parse((PACKAGE / f"{module}.py").read_text()).body
    return body[1:] if ast.get_docstring(ast.Module(body, [])) is not None else body


def _lines_of_functions(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from range(node.body[0].lineno, node.end_lineno + 1)


def measure(data: coverage.Coverage, file: str, module: str) -> tuple[int, int]:
    """How many statements the module has, and how many its own test reaches. What runs at import counts as reached."""
    _, statements, _, missing, _ = data.analysis2(file)
    own = own_test(module).as_posix()
    inside = set(_lines_of_functions(ast.parse((PACKAGE / f"{module}.py").read_text())))
    contexts = data.get_data().contexts_by_lineno(file)
    reached = [line for line in set(statements) - set(missing) if line not in inside or own in contexts.get(line, ())]
    return len(statements), len(reached)


def main() -> None:
    data = coverage.Coverage()
    data.load()
    measured = {_module(file): file for file in data.get_data().measured_files()}
    rows = []
    for module in modules():
        if file := measured.get(module):
            count, reached = measure(data, file, module)
            rows.append((100 * reached / count if count else 100.0, count, module))
    for percent, count, module in sorted(rows):
        print(f"{percent:5.0f} % of {count:3}  {module:34} {own_test(module)}")
    if unseen := [module for module in modules() if module not in measured]:
        sys.exit(f"Not measured: {', '.join(unseen)}")


def _module(file: str) -> str:
    return f"/{Path(file).with_suffix('').as_posix()}".rpartition("/channels_admission/")[2]


if __name__ == "__main__":
    main()
