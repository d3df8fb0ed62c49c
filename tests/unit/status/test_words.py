"""Names, time spans and overrides as people read them, in the language that is active."""

import pytest
from django.utils import translation

from channels_admission.core.levels import Level
from channels_admission.core.overrides import EVERY_WORKER, Controls, Drain, Order
from channels_admission.status import words
from channels_admission.status.values import PoolSnapshot

AT = 1_700_000_000.0


def pool(**controls) -> PoolSnapshot:
    return PoolSnapshot(
        name="default", held=0, limit=40, free=40, share=0.0, warn_at=0.7, level=Level.CALM, admitted=0, refused={},
        shed=0, workers=(), configured=5000, controls=Controls(5, **controls),
    )  # fmt: skip


def told(pool: PoolSnapshot) -> list[tuple[str, str]]:
    return [(each.key, each.what) for each in words.overrides(pool, "{:,.0f}".format)]


@pytest.mark.parametrize(
    ("seconds", "parts"),
    [
        (0, ["0 s"]),
        (0.9, ["0 s"]),
        (59.9, ["59 s"]),
        (60, ["1 min"]),
        (61, ["1 min", "1 s"]),
        (3599, ["59 min", "59 s"]),
        (3601, ["1 h"]),
        (7500, ["2 h", "5 min"]),
        (86400 * 400 + 3600 * 11 + 59, ["400 d", "11 h"]),
    ],
)
def test_durations(seconds, parts):
    assert words.duration(seconds) == parts


def test_a_pool_without_overrides_has_none_to_tell():
    assert told(pool()) == []


def test_every_override_is_told_and_the_drains_last():
    drains = (Drain("web-1", 60.0, "ann", AT), Drain(EVERY_WORKER, 5.0, "ann", AT))
    limit, switch = Order(4000, "ann", AT), Order(1, "ann", AT)
    shown = list(words.overrides(pool(limit=limit, paused=switch, dry_run=switch, drains=drains), "{:,.0f}".format))
    assert [(each.key, each.what, each.target) for each in shown] == [
        ("limit", "Limit 4,000 instead of 5,000", ""),
        ("paused", "Paused", ""),
        ("dry-run", "Dry run", ""),
        ("drain web-1", "Drain of web-1 within 60 s", "web-1"),
        ("drain *", "Drain of all workers within 5 s", EVERY_WORKER),
    ]
    assert [each.order for each in shown] == [limit, switch, switch, *drains]


def test_an_enforced_limit_and_the_end_of_a_dry_run_are_told():
    controls = {"limit": Order(0, "ann", AT, 10.0), "dry_run": Order(0, "ann", AT)}
    enforced = ("limit", "Limit 0 instead of 5,000, enforced within 10 s")
    assert told(pool(**controls)) == [enforced, ("dry-run", "No dry run")]


def test_words_are_those_of_the_active_language():
    drained = pool(drains=(Drain(EVERY_WORKER, 5.0, "ann", AT),))
    with translation.override("id"):
        assert words.duration(7500) == ["2 jam", "5 mnt"]
        assert words.named("full", "reason") == "pool penuh"
        assert told(drained) == [("drain *", "Pengosongan semua worker dalam 5 dtk")]
    with translation.override(None):
        assert words.duration(7500) == ["2 h", "5 min"]
        assert words.named("full", "reason") == "pool full"


def test_names_that_are_not_known_stay_and_those_of_quotas_are_not_read_as_formats():
    assert words.named("from-a-later-release", "reason") == "from-a-later-release"
    assert words.named("quota:{0}", "reason") == "over the quota {0}"
    assert words.named("attempts:ip", "reason") == "above the attempt rate of ip"
    assert words.named("quota:address", "monitor") == "quota:address"
