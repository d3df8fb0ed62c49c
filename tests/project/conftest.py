"""Fixtures of the tests that read the project's own sources."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_garbage() -> None:
    """Collect what earlier tests left behind.

    A task with an exception is logged when it is collected, and CPython 3.11 parses source for that traceback. Inside
    of ``ast.parse`` this raises ``SystemError: AST constructor recursion depth mismatch``.
    """
    gc.collect()
