"""The words of the package: docstrings and comments use the glossary's terms, and no retired ones."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

PACKAGE = Path(str(files("channels_admission")))
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
