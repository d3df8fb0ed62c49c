"""The settings: defaults, every key's good and bad values, pools, and every form of ledger."""

import pytest
from django.test import override_settings

from channels_admission import conf
from channels_admission.exceptions import ConfigurationError

LAYER = "channels_redis.core.RedisChannelLayer"

GOOD = {
    "ENABLED": [True, False],
    "PREFIX": ["a", "my-site:production"],
    "LEASE": [30, 18, 3600, 60.5],
    "BEAT": [0.1, 3, 5],
    "LEDGER_TIMEOUT": [0.01, 1],
    "MAX_CONNECTIONS": [0, 1, 10_000_000],
    "WARN_AT": [0.01, 1],
    "WHEN_LEDGER_DOWN": ["share", "freeze", "open", "closed"],
    "EXPECTED_WORKERS": [1, 64],
    "RETRY_AFTER": [(1, 60), [0.5, 0.5]],
    "REFUSE_WITH": ["close", "http"],
    "CLOSE_CODE": [1013, 1000, 1012, 3000, 4999],
    "CLOSE_REASON": ["", "Später", "x" * 100],
}
BAD = {
    "ENABLED": ("E003", [1, "yes", None]),
    "LEDGER": ("E004", ["", "elsewhere", 5, ("host",), {"BACKEND": "no.such.ledger"}, {"HOST": "h"}]),
    "PREFIX": ("E005", ["", "a b", "a{b}", "x" * 65, "a\n", None]),
    "LEASE": ("E006", [0, -1, "30", None, True, 100_000]),
    "BEAT": ("E007", [0, "3", 601]),
    "LEDGER_TIMEOUT": ("E008", [0, 4.5, "fast", float("nan")]),
    "MAX_CONNECTIONS": ("E010", [-1, 1.5, "50", None, True, 10_000_001]),
    "WARN_AT": ("E011", [0, 70, "0.7", True]),
    "WHEN_LEDGER_DOWN": ("E012", ["shared", None, 1, ["share"]]),
    "EXPECTED_WORKERS": ("E013", [0, "4"]),
    "RETRY_AFTER": ("E014", [5, (5,), (60, 1), (0, 5), (1, 4000), "15", (1, None)]),
    "REFUSE_WITH": ("E015", ["503", None, {}]),
    "CLOSE_CODE": ("E016", [1005, 1006, 1010, 1015, 2999, 5000, "1013", True]),
    "CLOSE_REASON": ("E017", [None, "x" * 101, "ä" * 51, "two\nlines"]),
    "POOLS": ("E018", [[], {"chat": 5}, {"Chat": {}}, {"a" * 41: {}}, {"": {}}, {5: {}}]),
}


def problems(**keys) -> list[conf.Problem]:
    with override_settings(CHANNELS_ADMISSION=keys):
        settings, found = conf.examine()
        assert (settings is None) == bool(found)
        return list(found)


def ids(**keys) -> list[str]:
    return [problem.id.removeprefix("channels_admission.") for problem in problems(**keys)]


@pytest.mark.parametrize("key", conf.KEYS, ids=lambda key: key.name)
def test_the_default_is_good(key):
    assert ids(**{key.name: key.default}) == []


def test_without_settings_the_defaults_hold(settings):
    del settings.CHANNELS_ADMISSION
    pool = conf.current().pool("default")
    assert (pool.max_connections, pool.close_code, pool.close_reason) == (5000, 1013, "Try Again Later")


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in GOOD.items() for value in values])
def test_a_good_value(key, value):
    assert problems(**{key: value}) == []


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, (_, values) in BAD.items() for value in values], ids=repr
)
def test_a_bad_value_has_its_id_and_says_what_it_must_be(key, value):
    (problem,) = problems(**{key: value})
    assert problem.id == f"channels_admission.{BAD[key][0]}"
    assert f"CHANNELS_ADMISSION['{key}']" in problem.message
    assert problem.hint


def test_every_key_is_tried():
    assert {key.name for key in conf.KEYS} - {"LEDGER"} == set(GOOD)
    assert {key.name for key in conf.KEYS} | {"POOLS"} == set(BAD)
    assert len({key.id for key in conf.KEYS}) == len(conf.KEYS)


@pytest.mark.parametrize("given", [None, [], "5000", 5000])
def test_something_that_is_no_dict(given):
    with override_settings(CHANNELS_ADMISSION=given):
        _, (problem,) = conf.examine()
    assert problem.id == "channels_admission.E001"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MAX_CONNECTION", "MAX_CONNECTIONS"), ("max_connections", "MAX_CONNECTIONS"), ("POOL", "POOLS"), ("XYZZY", None)],
)
def test_an_unknown_key_names_the_nearest(name, meant):
    (problem,) = problems(**{name: 5})
    assert problem.id == "channels_admission.E002"
    assert (f"Did you mean {meant!r}?" in problem.message) == (meant is not None)
    assert "MAX_CONNECTIONS" in problem.hint


def test_all_problems_are_told_at_once():
    assert ids(BEAT=0, WARN_AT=7, FOO=1, POOLS={"chat": {"CLOSE_CODE": 1}}) == ["E002", "E007", "E011", "E016"]


@pytest.mark.parametrize(("lease", "beat", "expected"), [(18, 3, []), (17.9, 3, ["E009"]), (5, 1, ["E009"])])
def test_a_lease_is_at_least_six_beats(lease, beat, expected):
    assert ids(LEASE=lease, BEAT=beat) == expected


def test_pools_inherit_and_override():
    pools = {"chat": {"MAX_CONNECTIONS": 7}, "default": {"WARN_AT": 0.5}}
    with override_settings(CHANNELS_ADMISSION={"MAX_CONNECTIONS": 100, "CLOSE_CODE": 4013, "POOLS": pools}):
        settings = conf.current()
        assert list(settings.pools) == ["default", "chat"]
        assert (settings.pool("chat").max_connections, settings.pool("chat").close_code) == (7, 4013)
        assert (settings.pool("default").max_connections, settings.pool("default").warn_at) == (100, 0.5)


@pytest.mark.parametrize(("overrides", "expected"), [({"PREFIX": "x"}, "E002"), ({"MAX_CONNECTIONS": -1}, "E010")])
def test_a_problem_of_a_pool_names_the_pool(overrides, expected):
    (problem,) = problems(POOLS={"chat": overrides})
    assert problem.id == f"channels_admission.{expected}"
    assert "CHANNELS_ADMISSION['POOLS']['chat']" in problem.message


def test_overridden_settings_are_in_force_at_once_and_gone_afterwards():
    before = conf.current()
    with override_settings(CHANNELS_ADMISSION={"MAX_CONNECTIONS": 3}):
        assert conf.current().pool("default").max_connections == 3
    assert conf.current() == before


def test_wrong_settings_raise_with_every_problem_and_hint():
    with (
        override_settings(CHANNELS_ADMISSION={"BEAT": 0, "WARN_AT": 7}),
        pytest.raises(ConfigurationError, match=r"(?s)'BEAT'.*E007.*'WARN_AT'.*E011"),
    ):
        conf.current()


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("redis://h:1/2", {"address": "redis://h:1/2"}),
        ("rediss://h:1", {"address": "rediss://h:1"}),
        ("unix:///tmp/redis.sock", {"address": "unix:///tmp/redis.sock"}),
        (("h", 1), {"host": "h", "port": 1}),
        (["h", 1], {"host": "h", "port": 1}),
        ([("h", 1), ("other", 2)], {"host": "h", "port": 1}),
        (["redis://h:1", "redis://other:1"], {"address": "redis://h:1"}),
        ({"host": "h", "port": 1, "db": 2}, {"host": "h", "port": 1, "db": 2}),
        ({"address": "redis://h", "socket_timeout": None}, {"address": "redis://h", "socket_timeout": None}),
        ({"sentinels": [("h", 1)], "master_name": "m"}, {"sentinels": [("h", 1)], "master_name": "m"}),
        ({"BACKEND": "redis", "HOSTS": ["redis://h"]}, {"address": "redis://h"}),
        ({"HOSTS": [("h", 1)]}, {"host": "h", "port": 1}),
        ({"BACKEND": conf.REDIS}, {"address": "redis://localhost:6379"}),
    ],
)
def test_a_ledger_in_redis(value, host):
    with override_settings(CHANNELS_ADMISSION={"LEDGER": value}):
        assert conf.current().ledger.backend == conf.REDIS
        assert dict(conf.current().ledger.host) == host


@pytest.mark.parametrize("value", ["memory", {"BACKEND": "memory"}, None])
def test_a_ledger_in_memory(value):
    with override_settings(CHANNELS_ADMISSION={"LEDGER": value}):
        assert conf.current().ledger == conf.LedgerSettings(conf.MEMORY, None)


@pytest.mark.parametrize(
    ("layer", "host"),
    [
        ({"BACKEND": LAYER}, {"address": "redis://localhost:6379"}),
        ({"BACKEND": LAYER, "CONFIG": {"hosts": [("h", 1)]}}, {"host": "h", "port": 1}),
        (
            {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": ["redis://h"]}},
            {"address": "redis://h"},
        ),
        ({"BACKEND": "channels.layers.InMemoryChannelLayer"}, None),
    ],
)
def test_the_channel_layer_says_where_by_default(layer, host):
    with override_settings(CHANNELS_ADMISSION={}, CHANNEL_LAYERS={"default": layer}):
        ledger = conf.current().ledger
        assert (None if ledger.host is None else dict(ledger.host)) == host


@pytest.mark.parametrize(
    "value",
    [
        "http://app:secret@h",
        {"address": "nothing://app:secret@h"},
        {"HOSTS": ["x://:secret@h"]},
        {"BACKEND": "x", "HOSTS": "secret"},
    ],
)
def test_a_bad_ledger_shows_no_password(value):
    (problem,) = problems(LEDGER=value)
    assert problem.id == "channels_admission.E004"
    assert "secret" not in problem.message + problem.hint
