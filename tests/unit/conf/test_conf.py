"""The settings: every key with its default, what it takes, what it refuses and how, and which are in force."""

import asyncio
import sys
from dataclasses import FrozenInstanceError, fields

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from redis.asyncio import UnixDomainSocketConnection

from channels_admission import conf
from channels_admission.conf import PoolSettings
from channels_admission.conf.alerts import Recipients
from channels_admission.conf.ledger import CLUSTER, HOST_FORMS, MEMORY, REDIS, UNREADABLE, LedgerSettings
from channels_admission.conf.overload import Thresholds, Watch
from channels_admission.conf.proxies import Proxies
from channels_admission.conf.validators import brief
from channels_admission.core.counters import Reason
from channels_admission.exceptions import ConfigurationError
from channels_admission.ledger import open_ledger

NOT_A_LAYER_OF_REDIS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
SECRET = "hunter2"

DEFAULTS = {
    "enabled": True,
    "ledger": LedgerSettings(MEMORY, None),
    "prefix": "channels_admission",
    "lease": 30.0,
    "heartbeat": 3.0,
    "ledger_timeout": 0.25,
    "memory_limit": None,
    "shed_per_heartbeat": 50,
    "trusted_proxies": Proxies(),
    "status_token": None,
    "alerts": Recipients(),
    "drain_on_stop": None,
    "drain_delay": 0.0,
    "lock_dir": None,
    "entrance_wait": 4.0,
    "pressure": {
        "lag": Watch("lag", None, Thresholds(0.1, 0.5)),
        "memory": Watch("memory", None, Thresholds(0.85, 0.95)),
        "descriptors": Watch("descriptors", None, Thresholds(0.85, 0.95)),
        "cpu": Watch("cpu", None, None),
        "threads": Watch("threads", None, None),
    },
}
POOL_DEFAULTS = {
    "max_connections": 5000,
    "warn_at": 0.7,
    "when_ledger_down": "share",
    "expected_workers": 1,
    "retry_after": (1.0, 60.0),
    "refuse_with": "close",
    "balancer_retries": None,
    "max_per_worker": None,
    "close_code": 1013,
    "close_reason": "Try Again Later",
    "max_connection_age": None,
    "connect_rate": None,
    "connect_burst": None,
    "slow_start": 0.0,
    "refusal_hold": None,
    "max_refusals_held": 1000,
    "dry_run": False,
    "quotas": (),
    "classify": None,
    "shares": {},
    "pending_share": None,
    "pending_deadline": None,
    "accept_deadline": 10.0,
    "disconnect_grace": 10.0,
}

IDS = {
    "ENABLED": "E003",
    "LEDGER": "E004",
    "PREFIX": "E005",
    "LEASE": "E006",
    "HEARTBEAT": "E007",
    "LEDGER_TIMEOUT": "E008",
    "PRESSURE": "E026",
    "MEMORY_LIMIT": "E027",
    "SHED_PER_HEARTBEAT": "E028",
    "STATUS_TOKEN": "E050",
    "ALERTS": "E041",
    "DRAIN_ON_STOP": "E042",
    "DRAIN_DELAY": "E080",
    "LOCK_DIR": "E081",
    "ENTRANCE_WAIT": "E077",
    "MAX_CONNECTIONS": "E010",
    "WARN_AT": "E011",
    "WHEN_LEDGER_DOWN": "E012",
    "EXPECTED_WORKERS": "E013",
    "RETRY_AFTER": "E014",
    "REFUSE_WITH": "E015",
    "BALANCER_RETRIES": "E078",
    "MAX_PER_WORKER": "E079",
    "CLOSE_CODE": "E016",
    "CLOSE_REASON": "E017",
    "MAX_CONNECTION_AGE": "E019",
    "CONNECT_RATE": "E021",
    "CONNECT_BURST": "E022",
    "SLOW_START": "E023",
    "REFUSAL_HOLD": "E024",
    "MAX_REFUSALS_HELD": "E025",
    "DRY_RUN": "E040",
    "TRUSTED_PROXIES": "E029",
    "QUOTAS": "E030",
    "CLASSIFY": "E031",
    "SHARES": "E032",
    "PENDING_SHARE": "E033",
    "PENDING_DEADLINE": "E034",
    "ACCEPT_DEADLINE": "E075",
    "DISCONNECT_GRACE": "E076",
}

GOOD = {
    "ENABLED": [True, False],
    "PREFIX": ["a", "shop:staging", "x" * 64],
    "LEASE": [18, 45.5, 3600],
    "HEARTBEAT": [0.1, 1, 5],
    "LEDGER_TIMEOUT": [0.01, 1, 4],
    "SHED_PER_HEARTBEAT": [0, 1, 100_000],
    "STATUS_TOKEN": [None, "x" * 32, "AZaz09._~+/=-" * 3],
    "DRAIN_ON_STOP": [None, 0, 2.5, 3600],
    "ENTRANCE_WAIT": [None, 0.1, 2, 4],
    "MEMORY_LIMIT": [None, 2**20, 2**50],
    "MAX_CONNECTIONS": [0, 1, 10_000_000],
    "WARN_AT": [0.001, 1, 1.0],
    "WHEN_LEDGER_DOWN": ["share", "freeze", "open", "closed"],
    "EXPECTED_WORKERS": [1, 100_000],
    "RETRY_AFTER": [(0.5, 3600), [2, 2]],
    "REFUSE_WITH": ["close", "http"],
    "BALANCER_RETRIES": [None, True, False],
    "MAX_PER_WORKER": [None, 1, 10_000_000],
    "DRAIN_DELAY": [0, 2.5, 24],
    "LOCK_DIR": [None, "/run/admission"],
    "CLOSE_CODE": [1000, 1001, 1008, 1013, 3000, 4999],
    "MAX_CONNECTION_AGE": [None, 1, 3600.5],
    "CONNECT_RATE": [None, 0.01, 200, 1_000_000],
    "CONNECT_BURST": [None, 1, 1_000_000],
    "SLOW_START": [0, 0.5, 3600],
    "REFUSAL_HOLD": [None, 0, 2.5, 60],
    "MAX_REFUSALS_HELD": [0, 1, 100_000],
    "DRY_RUN": [False, True],
    "CLOSE_REASON": ["", "Voll, später wieder", "é" * 50],
    "QUOTAS": [()],
    "CLASSIFY": [None],
    "SHARES": [{}, {"anonymous": 0.5, "staff": 1.0}],
    "PENDING_SHARE": [None, 0.01, 1],
    "PENDING_DEADLINE": [None, 0.1, 3600],
    "ACCEPT_DEADLINE": [None, 1, 3600],
    "DISCONNECT_GRACE": [None, 0, 3600],
}

NAN = float("nan")
BAD = {
    "ENABLED": ("True or False", [None, 1, "yes"]),
    "PREFIX": ("1 to 64 printable characters without spaces and braces", ["", "a b", "a{b", "}", "a\n", "x" * 65, 5]),
    "LEASE": ("a number of seconds from 1 to 3600", [0.9, 3601, "30", None, True, NAN, float("inf")]),
    "HEARTBEAT": ("a number of seconds from 0.1 to 600", [0, -1, 601, "3", None, False, NAN]),
    "LEDGER_TIMEOUT": ("a number of seconds from 0.01 to 4", [0, 4.1, "1", None, True, NAN]),
    "MAX_CONNECTIONS": ("a whole number from 0 to 10000000", [-1, 10_000_001, 50.0, "50", None, True]),
    "WARN_AT": ("a share of the limit above 0 and at most 1, such as 0.7", [0, 1.01, 70, "0.7", None, True, NAN]),
    "WHEN_LEDGER_DOWN": ("one of 'share', 'freeze', 'open', 'closed'", ["Share", "", None, 1, ["share"], {}]),
    "EXPECTED_WORKERS": ("a whole number from 1 to 100000", [0, 100_001, 1.0, "1", None, True]),
    "REFUSE_WITH": ("one of 'close', 'http'", ["HTTP", "", None, 503, ["http"]]),
    "BALANCER_RETRIES": ("True, False or None", [0, 1, "yes", ()]),
    "MAX_PER_WORKER": ("a whole number from 1 to 10000000 or None", [0, -1, 10_000_001, 5.0, "5", True]),
    "DRAIN_DELAY": ("a number of seconds from 0 to 600", [-1, 601, "2", None, True, NAN]),
    "LOCK_DIR": ("None or the absolute path of a directory", ["run/admission", "", "/run\0", 5, b"/run", True]),
    "CLOSE_CODE": (
        "a close code a server may send: 1013 (Try Again Later), another registered one, or 3000 to 4999",
        [0, 999, 1004, 1005, 1006, 1010, 1015, 2999, 5000, "1013", 1013.0, None, True],
    ),
    "CLOSE_REASON": (
        "one printable line of at most 100 bytes (a close frame carries 123 with the retry time)",
        ["a\nb", "\x00", "é" * 51, b"later", None, 5],
    ),
    "SHED_PER_HEARTBEAT": ("a whole number from 0 to 100000", [-1, 100_001, 1.5, "3", None, True]),
    "DRAIN_ON_STOP": ("None or a number of seconds from 0 to 3600", [-1, 3601, "3", True, NAN]),
    "ENTRANCE_WAIT": ("None or a number of seconds from 0.1 to 4", [0, 0.05, 4.1, "2", True, NAN]),
    "MEMORY_LIMIT": (
        "None or a whole number of bytes, at least 1048576 (1 MiB)",
        [0, 2**20 - 1, 2**51, 1e9, "1G", True],
    ),
    "CONNECT_RATE": (
        "None or a number of admissions per second from 0.01 to 1000000",
        [0, 0.001, -5, 2e6, "60", True, NAN],
    ),
    "CONNECT_BURST": ("None or a whole number of admissions from 1 to 1000000", [0, -1, 2.5, 2_000_000, "5", True]),
    "SLOW_START": ("a number of seconds from 0 to 3600", [-1, 3601, "30", None, True, NAN]),
    "REFUSAL_HOLD": ("None or a number of seconds from 0 to 60", [-1, 61, "3", False, NAN]),
    "MAX_REFUSALS_HELD": ("a whole number from 0 to 100000", [-1, 100_001, 1.5, "3", None, True]),
    "DRY_RUN": ("True or False", [0, 1, "yes", None]),
    "PENDING_SHARE": (
        "None or a share of the limit above 0 and at most 1, such as 0.2",
        [0, -0.1, 1.1, "1", True, NAN],
    ),
    "ACCEPT_DEADLINE": ("None or a number of seconds from 1 to 3600", [0.9, 3601, "5", True, NAN]),
    "DISCONNECT_GRACE": ("None or a number of seconds from 0 to 3600", [-1, 3601, "5", True, NAN]),
    "PENDING_DEADLINE": ("None or a number of seconds from 0.1 to 3600", [0, 3601, "5", True, NAN]),
    "MAX_CONNECTION_AGE": ("None or a number of seconds from 1 to 31536000", [0, 0.9, -5, 4e7, "60", True, NAN]),
}
BOUNDS = "two numbers of seconds, (least, most)"
BAD_RETRY_AFTER = {
    BOUNDS: [None, 5, "1-60", (1,), (1, 2, 3), ("1", "60"), (1, None), (True, 60), {1: 60}],
    f"{BOUNDS}, with 0.5 <= least <= most <= 3600": [(0.4, 60), (60, 1), (1, 3601), (NAN, 60), (1, NAN)],
}


@pytest.fixture(autouse=True)
def _layer(settings):
    settings.CHANNEL_LAYERS = NOT_A_LAYER_OF_REDIS


@pytest.fixture
def read(settings):
    """``read(KEY=value, …)``: these settings, read."""

    def given(**keys: object) -> conf.Settings:
        settings.CHANNELS_ADMISSION = keys
        return conf.current()

    return given


@pytest.fixture
def problems(settings):
    """``problems(KEY=value, …)``: what is wrong with these settings, each as its id and message."""

    def given(**keys: object) -> list[tuple[str, str]]:
        settings.CHANNELS_ADMISSION = keys
        found, wrong = conf.examine()
        assert found is None or not wrong
        return [(problem.id.removeprefix("channels_admission."), problem.message) for problem in wrong]

    return given


def plain(settings) -> dict[str, object]:
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def each(table: dict[str, list]) -> list[tuple[str, object]]:
    return [(key, value) for key, values in table.items() for value in values]


def test_a_drain_begins_while_its_order_stands(problems):
    """An order ends a lease after it was set, unless a worker drains by then."""
    assert problems(LEASE=30, HEARTBEAT=3, DRAIN_DELAY=24) == []
    message = "CHANNELS_ADMISSION['DRAIN_DELAY'] (25 s) must be at most 'LEASE' less two 'HEARTBEAT' (24 s)."
    assert problems(LEASE=30, HEARTBEAT=3, DRAIN_DELAY=25) == [("E009", message)]


# Keys and values


def test_defaults(read):
    found = plain(read())
    (pool,) = found.pop("pools").values()
    assert found == {**DEFAULTS, "site": 965306}
    assert plain(pool) == {"name": "default", **POOL_DEFAULTS}


def test_defaults_without_any_setting(settings):
    del settings.CHANNELS_ADMISSION
    assert not hasattr(django_settings, "CHANNELS_ADMISSION")
    assert conf.current().pool("default").max_connections == 5000


def test_every_key_is_a_field_and_is_tested_here():
    assert {key.name: key.id for key in conf.KEYS} == IDS
    assert {key.lower() for key in IDS} == {*DEFAULTS, *POOL_DEFAULTS}
    elsewhere = {"LEDGER", "PRESSURE", "ALERTS", "TRUSTED_PROXIES", "QUOTAS", "CLASSIFY", "SHARES"}
    assert {*GOOD, *elsewhere} == {*BAD, "RETRY_AFTER", "STATUS_TOKEN", *elsewhere} == set(IDS)


@pytest.mark.parametrize(("key", "value"), each(GOOD))
def test_good_values(read, key, value):
    found = read(**{key: value})
    place = found if key.lower() in DEFAULTS else found.pool("default")
    expected = tuple(value) if isinstance(value, list) else value
    assert getattr(place, key.lower()) == expected


@pytest.mark.parametrize(("key", "value"), each({key: values for key, (_, values) in BAD.items()}))
def test_bad_values(problems, key, value):
    must, _ = BAD[key]
    shown = brief(value)
    assert problems(**{key: value}) == [(IDS[key], f"CHANNELS_ADMISSION['{key}'] must be {must}, not {shown}.")]


def monitor() -> float:
    return 1.0


OWN = {"MONITOR": f"{__name__}.monitor", "THRESHOLDS": (10, 20)}


def test_thresholds_may_be_changed_switched_off_and_added(read):
    pressure = read(PRESSURE={"lag": (0.05, 0.2), "memory": None, "queue": OWN}).pressure
    assert pressure["lag"] == Watch("lag", None, Thresholds(0.05, 0.2))
    assert pressure["memory"] == Watch("memory", None, None)
    assert pressure["descriptors"] == DEFAULTS["pressure"]["descriptors"]
    assert pressure["queue"] == Watch("queue", monitor, Thresholds(10, 20))
    with pytest.raises(TypeError):
        pressure["lag"] = None


@pytest.mark.parametrize(
    ("value", "must", "why"),
    [
        (None, "a dict from a monitor's name to (scaling, saturation) or None", ""),
        ({1: (1, 2)}, "a dict from a monitor's name to (scaling, saturation) or None", ""),
        ({"lag": 5}, "a dict in which 'lag' is (scaling, saturation), two numbers, or None to show it only", ""),
        ({"lag": (1,)}, "a dict in which 'lag' is (scaling, saturation), two numbers, or None to show it only", ""),
        ({"lag": ("1", 2)}, "a dict in which 'lag' is (scaling, saturation), two numbers, or None to show it only", ""),
        ({"lag": (2, 1)}, "a dict in which 'lag' is (scaling, saturation) with 0 < scaling < saturation", ""),
        ({"lag": (0, 1)}, "a dict in which 'lag' is (scaling, saturation) with 0 < scaling < saturation", ""),
        ({"lag": (100, 500)}, "a dict in which 'lag' is (scaling, saturation), at most 60 seconds", ""),
        ({"threads": (1, 60.1)}, "a dict in which 'threads' is (scaling, saturation), at most 60 seconds", ""),
        *(
            (
                {name: (0.5, 1.1)},
                f"a dict in which {name!r} is (scaling, saturation), at most 1, all of what is allowed",
                "",
            )
            for name in ("memory", "descriptors")
        ),
        ({"cpu": (80, 90)}, "a dict in which 'cpu' is (scaling, saturation), shares of one core, at most 64", ""),
        ({"lag": (NAN, 1)}, "a dict in which 'lag' is (scaling, saturation) with 0 < scaling < saturation", ""),
        (
            {"memry": (1, 2)},
            "a dict of lag, memory, descriptors, cpu, threads",
            "'memry' is unknown. Did you mean 'memory'? Write a monitor of your own as "
            "{'MONITOR': 'dotted.path', 'THRESHOLDS': (scaling, saturation)}.",
        ),
        (
            {"sessions": {"monitor": "a.b", "THRESHOLDS": (1, 2)}},
            "a dict of lag, memory, descriptors, cpu, threads",
            "Write 'sessions' as {'MONITOR': 'dotted.path', 'THRESHOLDS': (scaling, saturation)}.",
        ),
        (
            {"a|b": OWN},
            "a dict from names of monitors: a letter and up to 23 of a-z, 0-9 and '_'",
            "'a|b' is not valid.",
        ),
        (
            {"_queue": OWN},
            "a dict from names of monitors: a letter and up to 23 of a-z, 0-9 and '_'",
            "'_queue' is not valid.",
        ),
        (
            {"queue": {**OWN, "MONITOR": None}},
            "a dict whose every MONITOR is the dotted path of a function",
            "",
        ),
        (
            {"queue": {**OWN, "MONITOR": f"{__name__}.OWN"}},
            "a dict whose every MONITOR is callable",
            f"{f'{__name__}.OWN'!r} is not callable.",
        ),
        (
            {"queue": {**OWN, "THRESHOLDS": (3, 3)}},
            "a dict in which 'queue' is (scaling, saturation) with 0 < scaling < saturation",
            "",
        ),
    ],
)
def test_bad_pressure(problems, value, must, why):
    ((check, message),) = problems(PRESSURE=value)
    assert check == "E026"
    assert message == f"CHANNELS_ADMISSION['PRESSURE'] must be {must}, not {brief(value)}. {why}".rstrip()


MODULES = {
    "sound": "def key(scope): pass\n",
    "broken": "\nimport shop_without\n",
    "nested": "from . import broken\n",
    "misread": "from json import nothing\n",
    "wrong": "def key(scope) pass\n",
    "raising": "def fail():\n    raise RuntimeError('no\\nsite')\nfail()\n",
}
FAILURES = {
    "key": "'key' is not a dotted path.",
    "shop modules.key": "'shop modules.key' is not a dotted path.",
    "shop_modules.": "'shop_modules.' is not a dotted path.",
    "shop_module.sound.key": "There is no module 'shop_module' (in 'shop_module.sound.key').",
    "shop_modules.sounds.key": "There is no module 'shop_modules.sounds' (in 'shop_modules.sounds.key').",
    "shop_modules.sound.keys": "The module 'shop_modules.sound' has no 'keys'. Did you mean 'key'?",
    "shop_modules.sound": "'shop_modules.sound' is a module; name a function in it.",
    "shop_modules.broken.key": "The import of 'shop_modules.broken' fails ({}/broken.py, line 2): "
    "ModuleNotFoundError: No module named 'shop_without'.",
    "shop_modules.nested.key": "The import of 'shop_modules.nested' fails ({}/broken.py, line 2): "
    "ModuleNotFoundError: No module named 'shop_without'.",
    "shop_modules.misread.key": "The import of 'shop_modules.misread' fails ({}/misread.py, line 1): "
    "ImportError: cannot import name 'nothing' from 'json'",
    "shop_modules.wrong.key": "The import of 'shop_modules.wrong' fails: SyntaxError: expected ':' (wrong.py, line 1).",
    "shop_modules.raising.key": "The import of 'shop_modules.raising' fails ({}/raising.py, line 2): "
    "RuntimeError: no site.",
}


@pytest.mark.parametrize("path", FAILURES)
@pytest.mark.parametrize("key", ["CLASSIFY", "QUOTAS", "PRESSURE", "LEDGER"])
def test_what_fails_in_a_dotted_path_is_told(problems, monkeypatch, tmp_path, key, path):
    place = tmp_path / "shop_modules"
    place.mkdir()
    for name, source in MODULES.items():
        (place / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    told = FAILURES[path].format(place)
    values = {
        "QUOTAS": [{"key": path, "max": 3}],
        "PRESSURE": {"queue": {**OWN, "MONITOR": path}},
        "LEDGER": {"BACKEND": path},
    }
    ((_, message),) = problems(**{key: values.get(key, path)})
    for name in [name for name in sys.modules if name.startswith("shop_modules")]:
        del sys.modules[name]
    if key == "LEDGER" and not told.startswith("The import"):
        assert message.startswith("CHANNELS_ADMISSION['LEDGER'] must be a dict whose 'BACKEND' is")
        assert path not in message
    elif key != "QUOTAS" or path not in ("key", "shop_modules."):
        assert message.startswith(f"CHANNELS_ADMISSION[{key!r}]: {told}")


def takes(*given):
    """Any number of arguments."""


def takes_two(scope, request):
    pass


def takes_one(scope, *, strict=True):
    pass


def takes_none():
    return 1.0


class Callable:
    def __call__(self, scope, more):
        pass


TAKES_MORE = Callable()


@pytest.mark.parametrize(
    ("name", "of_a_scope", "of_nothing"),
    [
        ("takes", "", ""),
        ("takes_one", "", "no argument, but is takes_one(scope, *, strict=True)."),
        ("takes_two", "one argument, the scope, but is takes_two(scope, request).", "no argument, but is takes_two("),
        ("takes_none", "one argument, the scope, but is takes_none().", ""),
        ("TAKES_MORE", "one argument, the scope, but is Callable(scope, more).", "no argument, but is Callable("),
    ],
)
def test_a_wrong_number_of_arguments_is_told_without_a_call(problems, name, of_a_scope, of_nothing):
    path = f"{__name__}.{name}"
    values = {
        "CLASSIFY": (path, of_a_scope),
        "QUOTAS": ([{"key": path, "max": 3, "name": "a"}], of_a_scope),
        "PRESSURE": ({"queue": {**OWN, "MONITOR": path}}, of_nothing),
    }
    for key, (value, told) in values.items():
        messages = [message for _, message in problems(**{key: value})]
        assert bool(messages) == bool(told)
        for message in messages:
            assert message.startswith(f"CHANNELS_ADMISSION[{key!r}]: {path!r:.60} is called with {told}")


@pytest.mark.parametrize(
    "name",
    [
        *Reason,
        "admitted",
        "released",
        "shed",
        "drained",
        "aged",
        "evicted",
        "overdue",
        "unaccepted",
        "outlived",
        "promised",
        "redeemed",
        "missed",
        "other",
    ],
    ids=str,
)
def test_no_monitor_may_be_called_as_something_else_that_is_counted(problems, name):
    ((check, message),) = problems(PRESSURE={str(name): OWN})
    assert check == "E026"
    assert "must be a dict from unused names of monitors, not" in message
    assert message.endswith(f" '{name}' is the name of another counter.")


@pytest.mark.parametrize(("must", "value"), each(BAD_RETRY_AFTER))
def test_bad_bounds_of_the_hint(problems, must, value):
    assert problems(RETRY_AFTER=value) == [
        ("E014", f"CHANNELS_ADMISSION['RETRY_AFTER'] must be {must}, not {brief(value)}.")
    ]


@pytest.mark.parametrize("key", conf.KEYS, ids=lambda key: key.name)
def test_the_hint_says_what_the_key_means_and_its_default(settings, key):
    settings.CHANNELS_ADMISSION = {key.name: object()}
    (problem,) = conf.examine()[1]
    assert problem.id == f"channels_admission.{key.id}"
    assert problem.hint == f"{key.meaning[0].upper()}{key.meaning[1:]}. Default: {key.default!r}."


def test_the_default_of_every_key_is_good(read):
    assert read(**{key.name: key.default for key in conf.KEYS}) == read()


def test_a_long_wrong_value_is_cut(problems):
    ((_, message),) = problems(MAX_CONNECTIONS="9" * 10_000)
    assert len(message) < 160


@pytest.mark.parametrize("value", [None, [], "redis://h", 5000])
def test_what_is_no_dict(settings, value):
    settings.CHANNELS_ADMISSION = value
    found, (problem,) = conf.examine()
    assert found is None
    assert problem.id == "channels_admission.E001"
    assert problem.message == f"CHANNELS_ADMISSION must be a dict, not {type(value).__name__}."
    assert problem.hint == "For example: CHANNELS_ADMISSION = {'MAX_CONNECTIONS': 5000}."


# Unknown keys


@pytest.mark.parametrize(
    ("key", "end"),
    [
        ("MAX_CONECTIONS", " Did you mean 'MAX_CONNECTIONS'?"),
        ("max_connections", " Did you mean 'MAX_CONNECTIONS'?"),
        ("POOL", " Did you mean 'POOLS'?"),
        ("LEDGER_TIME_OUT", " Did you mean 'LEDGER_TIMEOUT'?"),
        ("close-reason", " Did you mean 'CLOSE_REASON'?"),
        ("RATE", " Did you mean 'CONNECT_RATE'?"),
        ("MAX", ""),
        ("REDIS_URL", ""),
        ("QQQ", ""),
        (5, ""),
    ],
)
def test_an_unknown_key_names_the_nearest(settings, key, end):
    settings.CHANNELS_ADMISSION = {key: 1}
    (problem,) = conf.examine()[1]
    assert problem.id == "channels_admission.E002"
    assert problem.message == f"CHANNELS_ADMISSION has no key {key!r}.{end}"
    assert problem.hint == "Known keys: " + ", ".join(sorted([*IDS, "POOLS"]))


# Lease and heartbeat


@pytest.mark.parametrize(("lease", "heartbeat"), [(18, 3), (0.6 * 10, 1), (3600, 600), (1, 0.1)])
def test_a_lease_of_six_beats_is_long_enough(read, lease, heartbeat):
    found = read(LEASE=lease, HEARTBEAT=heartbeat)
    assert (found.lease, found.heartbeat) == (lease, heartbeat)


@pytest.mark.parametrize(
    ("lease", "heartbeat", "good"), [(17.9, 3, "30"), (30, 5.5, "55"), (3000, 600, "3600"), (1, 0.5, "5")]
)
def test_a_shorter_lease_is_refused_with_one_that_is_good(settings, read, lease, heartbeat, good):
    settings.CHANNELS_ADMISSION = {"LEASE": lease, "HEARTBEAT": heartbeat}
    (problem,) = conf.examine()[1]
    assert problem.id == "channels_admission.E009"
    assert (
        problem.message
        == f"CHANNELS_ADMISSION['LEASE'] ({lease:g} s) must be at least 6 times 'HEARTBEAT' ({heartbeat:g} s)."
    )
    assert problem.hint == f"With this heartbeat, set a lease of {good} s."
    assert read(LEASE=float(good), HEARTBEAT=heartbeat).lease == float(good)


def test_a_wrong_lease_is_not_also_compared(problems):
    assert [check for check, _ in problems(LEASE=-1, HEARTBEAT=600)] == ["E006"]


# Pools


def test_a_pool_overrides_what_all_share(read):
    found = read(
        MAX_CONNECTIONS=100,
        WARN_AT=0.5,
        POOLS={"chat": {"MAX_CONNECTIONS": 7, "CLOSE_CODE": 4013}, "default": {"WARN_AT": 0.6}, "bare": {}},
    )
    shared = {**POOL_DEFAULTS, "max_connections": 100, "warn_at": 0.5}
    assert dict(found.pools) == {
        "default": PoolSettings(name="default", **{**shared, "warn_at": 0.6}),
        "chat": PoolSettings(name="chat", **{**shared, "max_connections": 7, "close_code": 4013}),
        "bare": PoolSettings(name="bare", **shared),
    }


@pytest.mark.parametrize("key", conf.POOL_KEYS, ids=lambda key: key.name)
def test_every_pool_key_may_stand_in_a_pool(read, key):
    value = GOOD[key.name][-1]
    found = read(POOLS={"chat": {key.name: value}})
    assert getattr(found.pool("chat"), key.field) == (tuple(value) if isinstance(value, list) else value)
    assert plain(found.pool("default")) == {"name": "default", **POOL_DEFAULTS}


@pytest.mark.parametrize("key", [*(key.name for key in conf.PROJECT_KEYS), "POOLS"])
def test_no_other_key_may_stand_in_a_pool(problems, key):
    ((check, message),) = problems(POOLS={"chat": {key: None}})
    assert check == "E002"
    assert message == f"CHANNELS_ADMISSION['POOLS']['chat'] has no key {key!r}: it is the same for all pools."
    assert conf.examine()[1][0].hint == f"Write it beside 'POOLS', as CHANNELS_ADMISSION[{key!r}]."


def test_a_wrong_value_in_a_pool_says_where_it_is(problems):
    chat = "CHANNELS_ADMISSION['POOLS']['chat']"
    assert problems(POOLS={"chat": {"MAX_CONNECTIONS": -1, "WARN": 1}}) == [
        ("E002", f"{chat} has no key 'WARN'. Did you mean 'WARN_AT'?"),
        ("E010", f"{chat}['MAX_CONNECTIONS'] must be a whole number from 0 to 10000000, not -1."),
    ]


def test_a_value_wrong_for_all_pools_is_told_once(problems):
    assert [check for check, _ in problems(WARN_AT=7, POOLS={"a": {}, "b": {}})] == ["E011"]


@pytest.mark.parametrize("name", ["", "Chat", "a b", "a:b", "ä", "x" * 41, "a\n", 5, None])
def test_names_no_pool_can_have(settings, name):
    settings.CHANNELS_ADMISSION = {"POOLS": {name: {}}}
    (problem,) = conf.examine()[1]
    assert problem.id == "channels_admission.E018"
    assert problem.message == f"CHANNELS_ADMISSION['POOLS'] has the invalid name {name!r:.60}."
    assert problem.hint == "The name of a pool is 1 to 40 of a-z, 0-9, '_' and '-'."


@pytest.mark.parametrize("pools", [None, [], ["chat"], "chat", {"chat": 5}, {"chat": None}])
def test_pools_must_be_a_dict_of_dicts(problems, pools):
    assert problems(POOLS=pools) == [("E018", "CHANNELS_ADMISSION['POOLS'] must be a dict of dicts.")]


def test_an_unknown_pool_names_the_nearest(read):
    found = read(POOLS={"chat": {}})
    with pytest.raises(ConfigurationError) as caught:
        found.pool("chats")
    assert str(caught.value) == (
        "There is no admission pool 'chats'. Did you mean 'chat'? "
        "Declare it in CHANNELS_ADMISSION['POOLS'], as {'chats': {'MAX_CONNECTIONS': …}}."
    )


# In force


def test_all_problems_are_told_at_once(settings):
    settings.CHANNELS_ADMISSION = {"MAX_CONNECTION": 5, "ENABLED": 1, "WARN_AT": 2, "POOLS": {"A": {}}, "HEARTBEAT": 20}
    ids = ["E002", "E003", "E011", "E018", "E009"]
    assert [problem.id.rpartition(".")[2] for problem in conf.examine()[1]] == ids
    with pytest.raises(ImproperlyConfigured) as caught:
        conf.current()
    assert isinstance(caught.value, ConfigurationError)
    told = str(caught.value).splitlines()
    assert [line.rpartition(" ")[2] for line in told] == [f"(channels_admission.{check})" for check in ids]
    assert told[1] == (
        "CHANNELS_ADMISSION['ENABLED'] must be True or False, not 1. "
        "Whether connections are limited and counted. Default: True. (channels_admission.E003)"
    )


def test_override_settings_takes_effect_at_once_and_ends_at_once():
    before = conf.current()
    with override_settings(CHANNELS_ADMISSION={"MAX_CONNECTIONS": 3}):
        assert conf.current().pool("default").max_connections == 3
        with override_settings(CHANNELS_ADMISSION={"MAX_CONNECTIONS": -3}), pytest.raises(ConfigurationError):
            conf.current()
        assert conf.current().pool("default").max_connections == 3
    assert conf.current() == before


def test_the_settings_are_read_once(read):
    found = read(MAX_CONNECTIONS=3)
    assert conf.current() is found
    with override_settings(DEBUG=True):
        assert conf.current() is found


def test_the_settings_are_frozen(read):
    found = read()
    with pytest.raises(FrozenInstanceError):
        found.enabled = False
    with pytest.raises(FrozenInstanceError):
        found.pool("default").max_connections = 1
    with pytest.raises(TypeError):
        found.pools["more"] = found.pool("default")


# The ledger

SENTINELS = {"sentinels": [("10.0.0.1", 26379), ("10.0.0.2", 26379)], "master_name": "main"}
HOSTS = {
    "url": ("redis://h:1234/2", {"address": "redis://h:1234/2"}, "redis://h:1234/2"),
    "url with a password": (
        f"redis://user:{SECRET}@h/0",
        {"address": f"redis://user:{SECRET}@h/0"},
        "redis://h/0",
    ),
    "tls": ("rediss://h?ssl_cert_reqs=none", {"address": "rediss://h?ssl_cert_reqs=none"}, "rediss://h"),
    "unix socket": (
        "unix:///run/redis.sock?db=1",
        {"address": "unix:///run/redis.sock?db=1"},
        "unix:///run/redis.sock",
    ),
    "tuple": (("h", 1234), {"host": "h", "port": 1234}, "redis://h:1234/0"),
    "tuple with the port as text": (("h", "1234"), {"host": "h", "port": "1234"}, "redis://h:1234/0"),
    "pair in a list": (["h", 1234], {"host": "h", "port": 1234}, "redis://h:1234/0"),
    "dict of host and port": (
        {"host": "h", "port": 1234, "db": 3, "password": SECRET},
        {"host": "h", "port": 1234, "db": 3, "password": SECRET},
        "redis://h:1234/3",
    ),
    "dict of an address": (
        {"address": "redis://h/1", "socket_timeout": None},
        {"address": "redis://h/1", "socket_timeout": None},
        "redis://h/1",
    ),
    "sentinels": (SENTINELS, SENTINELS, "sentinel://main"),
    "sentinels with a password": (
        {**SENTINELS, "sentinel_kwargs": {"password": SECRET}, "password": SECRET},
        {**SENTINELS, "sentinel_kwargs": {"password": SECRET}, "password": SECRET},
        "sentinel://main",
    ),
}


@pytest.mark.parametrize("form", HOSTS)
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda host: host,
        lambda host: [host],
        lambda host: [host, "redis://never:1/0"],
        lambda host: {"HOSTS": [host]},
        lambda host: {"HOSTS": host},
        lambda host: {"BACKEND": "redis", "HOSTS": [host]},
        lambda host: {"BACKEND": REDIS, "HOSTS": [host, host, host]},
    ],
    ids=["alone", "in a list", "first of two", "HOSTS", "HOSTS without a list", "BACKEND", "BACKEND by path"],
)
def test_every_form_of_a_host(read, form, wrapped):
    given, expected, address = HOSTS[form]
    found = read(LEDGER=wrapped(given))
    assert found.ledger.backend == REDIS
    assert dict(found.ledger.host) == expected
    assert asyncio.run(opened(found)) == ("redis", address)


async def opened(settings: conf.Settings) -> tuple[str, str]:
    """The kind and address of the ledger, which is opened and never asked."""
    ledger = open_ledger(settings)
    try:
        return ledger.kind, ledger.address
    finally:
        await ledger.aclose()


@pytest.mark.parametrize("empty", [[], {"BACKEND": "redis"}, {"HOSTS": []}, {"HOSTS": None}, {"BACKEND": REDIS}])
def test_without_a_host_it_is_the_local_redis(read, empty):
    assert read(LEDGER=empty).ledger == LedgerSettings(REDIS, {"address": "redis://localhost:6379"})


@pytest.mark.parametrize(
    ("hosts", "nodes"),
    [
        (f"redis://:{SECRET}@h:7000", ({"address": f"redis://:{SECRET}@h:7000"},)),
        (["redis://h:7000", ("g", 7001)], ({"address": "redis://h:7000"}, {"host": "g", "port": 7001})),
        (["h", 7000], ({"host": "h", "port": 7000},)),
        ([{"host": "h", "port": 7000, "password": SECRET}], ({"host": "h", "port": 7000, "password": SECRET},)),
        ("rediss://h:7000/0?ssl_cert_reqs=none", ({"address": "rediss://h:7000/0?ssl_cert_reqs=none"},)),
    ],
)
def test_a_cluster(read, hosts, nodes):
    found = read(LEDGER={"HOSTS": hosts, "CLUSTER": True})
    assert found.ledger == LedgerSettings(CLUSTER, nodes[0], nodes)
    assert asyncio.run(opened(found)) == ("redis", "cluster://h:7000")
    assert read(LEDGER={"HOSTS": hosts, "CLUSTER": False}).ledger == LedgerSettings(REDIS, nodes[0])


def test_a_cluster_without_a_host_is_the_local_one(read):
    local = {"address": "redis://localhost:6379"}
    assert read(LEDGER={"CLUSTER": True}).ledger == LedgerSettings(CLUSTER, local, (local,))


@pytest.mark.parametrize(
    "value", ["memory", {"BACKEND": "memory"}, {"BACKEND": MEMORY}, {"BACKEND": "memory", "HOSTS": ["redis://h"]}]
)
def test_the_memory_ledger(read, value):
    found = read(LEDGER=value)
    assert found.ledger == LedgerSettings(MEMORY, None)
    assert asyncio.run(opened(found)) == ("memory", "this process")


def test_a_ledger_of_ones_own(read):
    found = read(LEDGER={"BACKEND": "support.faulty.FaultyLedger", "HOSTS": ["redis://h"]})
    assert found.ledger == LedgerSettings("support.faulty.FaultyLedger", {"address": "redis://h"})


@pytest.mark.parametrize("backend", ["RedisChannelLayer", "RedisPubSubLoopLayer"])
@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([("h", 1234)], {"host": "h", "port": 1234}),
        (({"address": "redis://h", "db": 1}, "redis://never"), {"address": "redis://h", "db": 1}),
        ([SENTINELS], SENTINELS),
        ([], {"address": "redis://localhost:6379"}),
        (None, {"address": "redis://localhost:6379"}),
    ],
)
def test_by_default_the_redis_of_the_channel_layer(settings, read, backend, hosts, expected):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"channels_redis.core.{backend}", "CONFIG": {"hosts": hosts}}}
    assert read().ledger == LedgerSettings(REDIS, expected)
    assert read(LEDGER="memory").ledger == LedgerSettings(MEMORY, None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("valkey://:secret@h:6380/1", "redis://:secret@h:6380/1"),
        ("valkeys://h/0", "rediss://h/0"),
        ("VALKEY://h", "redis://h"),
    ],
)
def test_a_valkey_is_read_as_a_redis(settings, read, url, expected):
    for value in (url, [url], {"HOSTS": [url]}, {"address": url}):
        assert read(LEDGER=value).ledger.host == {"address": expected}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_valkey.core.ValkeyChannelLayer"}}
    assert read().ledger.host == {"address": "redis://localhost:6379"}
    settings.CHANNEL_LAYERS = {"default": {**settings.CHANNEL_LAYERS["default"], "CONFIG": {"hosts": [url]}}}
    assert read().ledger.host == {"address": expected}


def test_a_channel_layer_without_any_config(settings, read):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}
    assert read().ledger == LedgerSettings(REDIS, {"address": "redis://localhost:6379"})


@pytest.mark.parametrize(
    "layers", [{}, NOT_A_LAYER_OF_REDIS, {"other": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}]
)
def test_without_a_channel_layer_in_redis_it_is_memory(settings, read, layers):
    settings.CHANNEL_LAYERS = layers
    assert read().ledger == LedgerSettings(MEMORY, None)


def test_without_channel_layers_it_is_memory(settings, read):
    del settings.CHANNEL_LAYERS
    assert read().ledger == LedgerSettings(MEMORY, None)


def test_another_channel_layer_takes_effect_at_once(read):
    assert read().ledger.host is None
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": ["redis://h:5/0"]}}
    with override_settings(CHANNEL_LAYERS={"default": layer}):
        assert conf.current().ledger.host == {"address": "redis://h:5/0"}
    assert conf.current().ledger.host is None


HOST = f"{HOST_FORMS} "
URL = f"{HOST}({UNREADABLE})"
SOCKET = {"connection_class": UnixDomainSocketConnection}
NO_PORT = HOST + "(a port is a number from 1 to 65535)"
BAD_HOSTS = {
    "no scheme": (f"h:6379?password={SECRET}", URL),
    "another scheme": (f"http://:{SECRET}@h", URL),
    "one slash": (f"redis:/{SECRET}", URL),
    "a port that is none": (f"redis://:{SECRET}@h:port/0", URL),
    "a password with a slash": (f"redis://:{SECRET}/x@h:6379/0", URL),
    "a password that looks like a port": (f"redis://:42/{SECRET}@h:6379/0", URL),
    "a user and a password that looks like a port": (f"redis://user:42/{SECRET}@h:6379/0", URL),
    "a password with a question mark": (f"redis://user:42?{SECRET}=x@h", URL),
    "a password with a number sign": (f"redis://user:42#{SECRET}@h", URL),
    "a password with a line break": (f"redis://:\n{SECRET}@h", URL),
    "a database in words": (f"redis://h/{SECRET}", URL),
    "an option without a value": (f"redis://h?{SECRET}", URL),
    "a plus sign that would be a space": (f"redis://h?password={SECRET}+1", URL),
    "a socket with a host": (f"unix://{SECRET}/run/redis.sock", URL),
    "a URL for a host": ({"host": f"redis://:{SECRET}@h"}, HOST + "(a host is only a name or an address)"),
    "a URL for a path": (
        {**SOCKET, "path": f"unix://:{SECRET}@/x"},
        HOST + "(a path or the name of a master is not a URL)",
    ),
    "a database of a dict in words": ({"host": "h", "db": SECRET}, HOST + "(a database is a number)"),
    "a time in words": (
        {"address": "redis://h", "socket_timeout": SECRET},
        HOST + "(socket_timeout is a number of seconds)",
    ),
    "a time below 0": (
        {"host": "h", "socket_connect_timeout": -1, "password": SECRET},
        HOST + "(socket_connect_timeout is a number of seconds)",
    ),
    "a time that is none": (
        {"host": "h", "health_check_interval": True, "password": SECRET},
        HOST + "(health_check_interval is a number of seconds)",
    ),
    "an option of the URL": (f"redis://:{SECRET}@h?{SECRET}=x", HOST + "(the URL has an option unknown to redis-py)"),
    "an option of a dict": ({"host": "h", "pasword": SECRET}, HOST + "(redis-py has no option 'pasword')"),
    "an option beside an address": (
        {"address": "redis://h", "pasword": SECRET},
        HOST + "(redis-py has no option 'pasword')",
    ),
    "too high a port": ({"host": "h", "port": 65536, "password": SECRET}, NO_PORT),
    "port 0": (("h", 0), NO_PORT),
    "a port in words": (("h", SECRET), HOST + "(redis-py raises ValueError for this value)"),
    "a tuple of one": (("h",), HOST + "(redis-py raises IndexError for this value)"),
    "a tuple of hosts": (("redis://h", f"redis://:{SECRET}@h"), HOST + "(redis-py raises ValueError for this value)"),
    "sentinels without a name": (
        {"sentinels": [("h", 1)], "password": SECRET},
        HOST + "(redis-py has no option 'sentinels')",
    ),
    "a name without sentinels": (
        {"master_name": "m", "password": SECRET},
        HOST + "(redis-py raises KeyError for this value)",
    ),
    "bytes": (f"redis://:{SECRET}@h".encode(), URL),
    "a number": (6379, None),
    "False": (False, None),
}
BACKENDS = "a dict whose 'BACKEND' is 'redis', 'memory' or the dotted path of a ledger"
CLUSTERS = "a dict whose 'CLUSTER' is True or False, and True only with the 'BACKEND' 'redis'"
NODES = "hosts of a cluster, without sentinels, sockets and databases other than 0 "
BAD_LEDGERS = {
    "a misspelt key": (
        {"BACKEND": "redis", "HOST": SECRET},
        "a dict of 'BACKEND', 'HOSTS' and 'CLUSTER'. 'HOST' is unknown. Did you mean 'HOSTS'?",
    ),
    "a single slash": ("redis:/host", URL),
    "a host after three slashes": ("redis:///host", URL),
    "a backend that is not there": ({"BACKEND": "no.such.Ledger", "HOSTS": [SECRET]}, BACKENDS),
    "a backend that is no ledger": ({"BACKEND": "os.path.join"}, BACKENDS),
    "a URL for a backend": ({"BACKEND": f"redis://:{SECRET}@10.0.0.1/0"}, BACKENDS),
    "a relative backend": ({"BACKEND": ".ledger.Ledger"}, BACKENDS),
    "a dot": ({"BACKEND": "."}, BACKENDS),
    "no text": ({"BACKEND": ["redis"]}, BACKENDS),
    "a cluster that is no flag": ({"CLUSTER": "yes"}, CLUSTERS),
    "a cluster in memory": ({"BACKEND": "memory", "CLUSTER": True}, CLUSTERS),
    "a cluster with a database": (
        {"HOSTS": [f"redis://:{SECRET}@h/1"], "CLUSTER": True},
        NODES + "(redis-py raises RedisClusterException for this value)",
    ),
    "a cluster with a socket": (
        {"HOSTS": ["unix:///run/redis.sock"], "CLUSTER": True},
        NODES + "(redis-py raises RedisClusterException for this value)",
    ),
    "a cluster of sentinels": (
        {"HOSTS": [SENTINELS], "CLUSTER": True},
        NODES + "(redis-py has no option 'sentinels')",
    ),
    "None": ({"BACKEND": None}, BACKENDS),
}


@pytest.mark.parametrize("form", BAD_HOSTS)
@pytest.mark.parametrize("wrapped", [lambda host: host, lambda host: {"HOSTS": [host]}], ids=["alone", "HOSTS"])
def test_bad_hosts(problems, form, wrapped):
    given, must = BAD_HOSTS[form]
    ((check, message),) = problems(LEDGER=wrapped(given))
    assert check == "E004"
    if must is None:
        assert message.startswith(f"CHANNELS_ADMISSION['LEDGER'] must be {HOST_FORMS} (")
    else:
        assert message == f"CHANNELS_ADMISSION['LEDGER'] must be {must}."
    assert not tells(SECRET)


@pytest.mark.parametrize("form", BAD_LEDGERS)
def test_bad_ledgers(problems, form):
    given, must = BAD_LEDGERS[form]
    assert problems(LEDGER=given) == [("E004", f"CHANNELS_ADMISSION['LEDGER'] must be {must}.".replace("?.", "?"))]
    assert not tells(SECRET)


def test_a_bad_host_of_the_channel_layer_is_told_as_such(settings, problems):
    hosts = [f"reddis://:{SECRET}@h"]
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": hosts}}
    }
    assert problems() == [
        (
            "E004",
            "CHANNELS_ADMISSION['LEDGER'] must be set, or the first host of CHANNEL_LAYERS['default'] must be "
            f"{HOST_FORMS} ({UNREADABLE}).",
        )
    ]
    assert not tells(SECRET)


@pytest.mark.parametrize("value", [SECRET, SECRET.encode() * 9, f"{SECRET} {SECRET * 9}", SECRET * 99, "", 5, True])
def test_a_bad_token_is_not_told(problems, value):
    must = "None or 32 to 256 letters, digits and ._~+/=-, such as secrets.token_urlsafe() gives"
    assert problems(STATUS_TOKEN=value) == [("E050", f"CHANNELS_ADMISSION['STATUS_TOKEN'] must be {must}.")]
    assert not tells(SECRET)


def test_the_token_does_not_stand_in_the_settings_as_text(read):
    assert SECRET not in repr(read(STATUS_TOKEN=SECRET * 9))


def tells(secret: str) -> bool:
    """Whether anything said of the settings in force, down to the errors behind it, holds ``secret``."""
    with pytest.raises(ConfigurationError) as caught:
        conf.current()
    told = [str(caught.value)]
    error = caught.value
    while error := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        told.append(str(error))
    return any(secret in text for text in [*told, *(f"{problem}" for problem in conf.examine()[1])])


# The site


def test_a_site_is_known_by_its_secret_key_alone_and_its_number_tells_nothing_of_it(settings):
    found = {conf.site()}
    settings.ROOT_URLCONF, settings.CHANNELS_ADMISSION = "another.urls", {"MAX_CONNECTIONS": 7}
    settings.SECRET_KEY_FALLBACKS = ["older"]
    assert {conf.current().site} == found == {965306}
    for key in range(200):
        settings.SECRET_KEY = f"key {key}"
        found.add(conf.current().site)
    assert len(found) == 201
    assert all(1 <= site <= 999_999 for site in found)


def test_a_process_without_a_secret_key_is_of_no_site(settings):
    settings.SECRET_KEY = ""
    assert conf.current().site == 0
