"""The public types: what programs import is what the package itself uses."""

import pytest

from channels_admission import types
from channels_admission.core import counters, levels, overrides, protocol, readings


@pytest.mark.parametrize("name", types.__all__)
def test_every_public_type_is_that_of_the_package(name):
    given = getattr(types, name)
    assert any(vars(part).get(name) is given for part in (counters, levels, overrides, protocol, readings))
