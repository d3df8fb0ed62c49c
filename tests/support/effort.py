"""How much the costly tests try.

``EFFORT=part`` lets them try a fifth, where another Python tries all: what they try is the script in Redis, and
arithmetic, which no Python does differently.
"""

import os

PART = 5 if os.environ.get("EFFORT") == "part" else 1
"""Of so many examples, steps or cases one is tried."""


def some_of(number: int) -> int:
    return -(-number // PART)
