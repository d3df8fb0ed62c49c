"""Where the counts of a pool stand in Redis, so that several releases of the package can work over one Redis.

A layout is what stands in Redis: the names of the keys, the fields, and how they are written and sealed. Releases with
the same :data:`LAYOUT` count together. Releases with different ones count in keys of their own, which the others never
touch; the keys :data:`COMMON` are the same in all layouts. There each layout says what it holds, so that all of them
together keep to the limit.

Within a layout, a worker's record may get further fields at its end, and a pool may get further keys. Any other change
takes a new number.
"""

import re
from collections.abc import Mapping

from ..conf import MAX_LIMIT
from ..conf.keys import MAX_LEASE
from ..core.readings import Elsewhere

LAYOUT = 1
"""The layout of this release."""
COMMON = ("controls", "layouts")
"""The keys of a pool that all layouts share. What they hold is never written in another way."""
SAID = re.compile(r"(\d{1,15})\|(\d{1,15})\|(\d{1,15})(?:\|.*)?")
"""What a layout says in ``layouts``: slots held, workers that do not drain, and until when this counts."""


def key_of(prefix: str, pool: str, part: str, layout: int = LAYOUT) -> str:
    """The name of a key. The keys of the first layout bear no number."""
    own = layout != 1 and part not in COMMON
    return f"{prefix}:{{{pool}}}:{f'{layout}:' if own else ''}{part}"


def elsewhere_of(said: Mapping[str, str], now: int, layout: int = LAYOUT) -> Elsewhere:
    """What the other layouts say; ``now`` is by Redis, in milliseconds. ``lua/layouts.lua`` reads the same."""
    found = [_counted(text, now) for name, text in said.items() if name != str(layout)]
    return Elsewhere(sum(held for held, _ in found), sum(workers for _, workers in found))


def _counted(text: str, now: int) -> tuple[int, int]:
    """The slots and workers of a layout; none where they count no longer, or none of ours can have written it."""
    match = SAID.fullmatch(text)
    held, workers, ends = map(int, match.groups()) if match else (0, 0, 0)
    is_alive = now < ends <= now + 1000 * MAX_LEASE and max(held, workers) <= MAX_LIMIT
    return (held, workers) if is_alive else (0, 0)
