"""The words of the package: texts and names use the glossary's terms, no retired ones, and each class its own."""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from support import ROOT, TESTS

PACKAGE = Path(str(files("channels_admission")))
CODE_OF = PACKAGE, TESTS, ROOT / "testproject", ROOT / "benchmarks"
RETIRED = {
    "gate": "limiter",
    "conversation": "reconciler, or call",
    "house": "registry",
    "patience": "deadline, or timeout",
    "timetable": "schedule",
    "journal": "log",
    "stranger": "unauthenticated",
    "tail": "end",
    "strain": "load",
    "printout": "output",
    "moment": "retry time, or bucket",
    "home": "host",
    "beat": "heartbeat",
    "owed": "unreserved",
    "who": "the noun",
    "whom": "the noun",
    "whoever": "the noun",
    "nobody": "no client, or no worker",
    "somebody": "a client, or an operator",
}
"""Words that the glossary has retired, with what to say instead."""
PRONOUNS = {"who", "whom", "whoever", "nobody", "somebody"}
NOT_IN_NAMES = RETIRED.keys() | {"account", "offer", "facts", "shape"}
"""Words that no name in the package contains. Those of tests are sentences, and may have pronouns."""
NAME_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
WORD = re.compile(rf"\b({'|'.join(RETIRED)})s?\b", re.IGNORECASE)
CODE = re.compile(r"``[^`]+``|:\w+:`[^`]+`")
"""Names of code, which the rule does not hold for."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every docstring, also of attributes, and every comment of a module, with its line."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def retired_words(path: Path) -> list[str]:
    return [
        f"{path.name}:{line} {match[0]!r}: say {RETIRED[match[1].lower()]}"
        for line, text in texts(path)
        for match in WORD.finditer(CODE.sub("", text))
    ]


def test_no_module_uses_a_retired_word():
    paths = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    assert {str(path): words for path in paths if (words := retired_words(PACKAGE / path))} == {}


def test_retired_words_are_found_in_docstrings_and_comments_and_not_in_code(tmp_path):
    module = tmp_path / "module.py"
    module.write_text('"""The gate.\n\n``home`` is code."""\nwho = 1\n"""Strangers."""\n# To whom: :func:`gate`\n')
    assert retired_words(module) == [
        "module.py:1 'gate': say limiter",
        "module.py:5 'Strangers': say unauthenticated",
        "module.py:6 'whom': say the noun",
    ]


def names(path: Path) -> set[str]:
    """Every name in the code of a module, and its own."""
    return {
        token.string
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        if token.type == tokenize.NAME
    } | {path.stem}


def retired_names(path: Path) -> list[str]:
    retired = NOT_IN_NAMES if path.is_relative_to(PACKAGE) else NOT_IN_NAMES - PRONOUNS
    return sorted(name for name in names(path) if retired & {part.lower() for part in NAME_PARTS.findall(name)})


def test_no_name_has_a_retired_word():
    paths = [path for folder in CODE_OF for path in sorted(folder.rglob("*.py"))]
    assert {path.name: found for path in paths if (found := retired_names(path))} == {}


def test_retired_words_are_found_in_names(tmp_path):
    module = tmp_path / "home.py"
    module.write_text("class RetryOffer:\n    MOMENT, momentum = 1, 2\n\ndef test_who_asks(): pass\n")
    assert retired_names(module) == ["MOMENT", "RetryOffer", "home"]


def test_no_two_classes_of_the_package_have_the_same_name():
    """But for Django's commands, which have to."""
    classes = Counter(
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name != "Command"
    )
    assert {name: number for name, number in classes.items() if number > 1} == {}
