"""The translations: complete, current, and compiled from what is there to read."""

import ast
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import polib
import pytest

PACKAGE = Path(str(files("channels_admission")))
LANGUAGES = sorted(path.name for path in (PACKAGE / "locale").iterdir())
MARKERS = {"_", "gettext", "gettext_lazy", "pgettext", "pgettext_lazy"}
TRANSLATE = re.compile(r'{% translate "([^"]+)"(?: context "([^"]+)")?(?: as \w+)? %}')

Message = tuple[str | None, str]
"""A context and a text."""


def in_python(path: Path) -> Iterator[Message]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKERS:
            *context, text = (ast.literal_eval(argument) for argument in node.args)
            yield (context[0] if context else None, text)


def in_template(path: Path) -> Iterator[Message]:
    source = path.read_text()
    found = TRANSLATE.findall(source)
    if len(found) != len(re.findall(r"{%-? *(?:blocktrans|trans)", source)):
        raise ValueError(f"{path} marks texts in a way that this test does not read")
    for text, context in found:
        yield (context or None, text)


def messages() -> set[Message]:
    python = (message for path in PACKAGE.rglob("*.py") for message in in_python(path))
    templates = (message for path in PACKAGE.rglob("*.html") for message in in_template(path))
    return {*python, *templates}


def catalogue(language: str) -> polib.POFile:
    return polib.pofile(str(PACKAGE / f"locale/{language}/LC_MESSAGES/django.po"))


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"%s|{\w+}", text))


def test_there_is_an_indonesian_translation():
    assert "id" in LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_the_sources_is_translated(language):
    entries = catalogue(language)
    assert {(entry.msgctxt, entry.msgid) for entry in entries if not entry.obsolete} == messages()
    assert [entry.msgid for entry in entries if not entry.translated() or entry.fuzzy] == []
    assert not entries.metadata_is_fuzzy
    assert entries.obsolete_entries() == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_the_placeholders(language):
    for entry in catalogue(language):
        assert placeholders(entry.msgstr) == placeholders(entry.msgid)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_compiled_catalogue_is_the_written_one(language):
    compiled = polib.mofile(str(PACKAGE / f"locale/{language}/LC_MESSAGES/django.mo"))
    assert {(entry.msgctxt, entry.msgid): entry.msgstr for entry in compiled} == {
        (entry.msgctxt, entry.msgid): entry.msgstr for entry in catalogue(language)
    }
