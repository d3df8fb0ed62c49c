"""Every module has a test, and every test a folder; no module and no folder is larger than can be read at once."""

import re

import pytest

from support import TESTS
from support.own_coverage import COVERED_BY, PACKAGE, modules, namesake, own_test

MOST_LINES = 300
MOST_MODULES = 11
"""In one folder, its ``__init__`` left out: for more, make a folder for those that are one subject."""
REFERENCE = re.compile(r":(?:mod:`~?\.+([a-z_.]+)`|(?:class|data|exc):`~?\.+([a-z_.]+)\.[A-Z])")
IN_THE_SCRIPT = re.compile(r"(?:\w+/)*\w+\.(?:py|lua)\b")


def test_every_module_has_a_test_of_its_name_or_a_line_that_names_one():
    lacking = [module for module in modules() if not (TESTS / namesake(module)).exists()]
    assert sorted(lacking) == sorted(COVERED_BY)


@pytest.mark.parametrize("module", modules())
def test_its_test_is_there(module):
    assert (TESTS / own_test(module)).is_file()


def test_no_test_lies_outside_of_the_folders():
    assert [path.name for path in TESTS.glob("*.py")] == ["conftest.py"]


def test_no_module_has_more_lines_than_are_read_at_once():
    lines = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: number for name, number in lines.items() if number > MOST_LINES} == {}


def test_no_folder_has_more_modules_than_are_seen_at_once():
    folders = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}
    numbers = {
        folder.relative_to(PACKAGE).as_posix(): sum(each.name != "__init__.py" for each in folder.glob("*.py"))
        for folder in folders
    }
    assert {name: number for name, number in numbers.items() if number > MOST_MODULES} == {}


def test_every_module_that_docstrings_and_the_script_name_is_there():
    """Modules move into folders, and no tool moves their names in texts."""
    there = [f"/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.*")]
    named = set()
    for path in PACKAGE.rglob("*.py"):
        named |= {(path.name, "".join(name).replace(".", "/")) for name in REFERENCE.findall(path.read_text())}
    assert len(named) > 25
    for path in PACKAGE.rglob("*.lua"):
        named |= {(path.name, name) for name in IN_THE_SCRIPT.findall(path.read_text())}
    ends = ("", ".py", "/__init__.py")
    lost = [each for each in named if not any(path.endswith(f"/{each[1]}{end}") for end in ends for path in there)]
    assert lost == []
