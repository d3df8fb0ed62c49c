"""Every module has a test, and every test a folder."""

import pytest

from support import TESTS
from support.own_coverage import COVERED_BY, modules, namesake, own_test


def test_every_module_has_a_test_of_its_name_or_a_line_that_names_one():
    lacking = [module for module in modules() if not (TESTS / namesake(module)).exists()]
    assert sorted(lacking) == sorted(COVERED_BY)


@pytest.mark.parametrize("module", modules())
def test_its_test_is_there(module):
    assert (TESTS / own_test(module)).is_file()


def test_no_test_lies_outside_of_the_folders():
    assert [path.name for path in TESTS.glob("*.py")] == ["conftest.py"]
