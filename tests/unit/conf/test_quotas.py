"""What QUOTAS, CLASSIFY, SHARES, TRUSTED_PROXIES and the settings for the unauthenticated take and refuse."""

from ipaddress import ip_network

import pytest
from django.test import override_settings

from channels_admission import conf
from channels_admission.conf.proxies import Proxies
from channels_admission.conf.quotas import Quota
from channels_admission.conf.shares import bounds


def tenant(scope):
    return scope["tenant"]


async def slowly(scope):
    return scope["tenant"]


class Slow:
    async def __call__(self, scope):
        return scope["tenant"]


slow = Slow()
TENANT = f"{__name__}.tenant"


def read(**keys):
    with override_settings(CHANNELS_ADMISSION={"LEDGER": "memory", **keys}):
        return conf.examine()


def pool(**keys):
    settings, problems = read(**keys)
    assert problems == ()
    return settings.pool("default")


def test_quotas_by_built_in_keys_and_by_functions():
    quotas = [{"key": "address", "max": 20}, {"key": "user", "max": 3, "name": "member"}, {"key": TENANT, "max": 500}]
    assert pool(QUOTAS=quotas).quotas == (
        Quota("address", "address", 20),
        Quota("member", "user", 3),
        Quota("tenant", tenant, 500),
    )
    assert pool().quotas == ()


def test_a_quota_may_limit_attempts_beside_its_slots_or_instead():
    quotas = [{"key": "address", "rate": 2}, {"key": "user", "max": 3, "rate": 0.25, "burst": 4}]
    assert pool(QUOTAS=quotas).quotas == (Quota("address", "address", None, 2.0, 20), Quota("user", "user", 3, 0.25, 4))
    assert pool(QUOTAS=[{"key": "user", "rate": 0.001}]).quotas[0].burst == 1


def test_the_oldest_connection_under_a_key_may_give_way():
    quotas = [{"key": "user", "max": 3, "full": "oldest", "rate": 1}, {"key": "address", "max": 5, "full": "refuse"}]
    assert [quota.full for quota in pool(QUOTAS=quotas).quotas] == ["oldest", "refuse"]
    assert [bound.oldest for bound in bounds(pool(QUOTAS=quotas))] == [True, False]


def test_a_key_that_no_quota_has_is_named():
    _, (problem,) = read(QUOTAS=[{"key": "user", "rat": 3, "max": 4}])
    assert "'rat' is unknown. Did you mean 'rate'?" in problem.message
    _, (problem,) = read(QUOTAS=[{"KEY": "chat.quotas.of_the_tenant_of_the_site", "MAX": 4000}])
    assert problem.message == (
        "CHANNELS_ADMISSION['QUOTAS'] must be a list of dicts of 'key', 'name', 'max', 'rate', 'burst', 'full', "
        "not [{'KEY': 'chat.quotas.of_the_tenant_of_the_site', 'MAX': 40…. 'KEY' is unknown. Did you mean 'key'?"
    )


def test_a_function_whose_name_is_no_name_of_a_quota_needs_one():
    _, (problem,) = read(QUOTAS=[{"key": "chat.quotas.ofTenant", "max": 4}])
    assert problem.message.endswith(" 'ofTenant' is not valid. Give the quota of 'chat.quotas.ofTenant' a 'name'.")
    _, (problem,) = read(QUOTAS=[{"key": "user", "max": 4, "name": "A"}])
    assert problem.message.endswith(" 'A' is not valid.")


def test_a_pool_may_have_quotas_of_its_own():
    settings, _ = read(QUOTAS=[{"key": "user", "max": 3}], POOLS={"chat": {"QUOTAS": []}})
    assert settings.pool("default").is_shared
    assert not settings.pool("chat").is_shared


@pytest.mark.parametrize(
    ("keys", "shared"),
    [
        ({}, False),
        ({"SHARES": {"staff": 1}}, False),
        ({"PENDING_DEADLINE": 5}, False),
        ({"PENDING_SHARE": 0.2}, True),
        ({"CLASSIFY": TENANT}, True),
    ],
)
def test_only_what_the_ledger_must_decide_makes_handshakes_ask_one_by_one(keys, shared):
    assert pool(**keys).is_shared is shared


@pytest.mark.parametrize(
    ("key", "check", "value"),
    [
        ("QUOTAS", "E030", None),
        ("QUOTAS", "E030", {"key": "user", "max": 3}),
        ("QUOTAS", "E030", [{"key": "user"}]),
        ("QUOTAS", "E030", [{"key": "user", "max": 3, "most": 4}]),
        ("QUOTAS", "E030", [{"key": "user", "max": 0}]),
        ("QUOTAS", "E030", [{"key": "user", "max": True}]),
        ("QUOTAS", "E030", [{"key": "user", "max": 3, "full": "youngest"}]),
        ("QUOTAS", "E030", [{"key": "user", "max": 3, "full": ["oldest"]}]),
        ("QUOTAS", "E030", [{"key": "user", "rate": 3, "full": "oldest"}]),
        ("QUOTAS", "E030", [{"key": "user", "max": 101, "full": "oldest"}]),
        ("QUOTAS", "E030", [{"key": "user", "max": None}]),
        ("QUOTAS", "E030", [{"key": "user", "burst": 3}]),
        ("QUOTAS", "E030", [{"key": "user", "max": 3, "burst": 3}]),
        ("QUOTAS", "E030", [{"key": "user", "rate": None}]),
        ("QUOTAS", "E030", [{"key": "user", "rate": 0}]),
        ("QUOTAS", "E030", [{"key": "user", "rate": True}]),
        ("QUOTAS", "E030", [{"key": "user", "rate": float("nan")}]),
        ("QUOTAS", "E030", [{"key": "user", "rate": 10_001}]),
        ("QUOTAS", "E030", [{"key": "user", "rate": 2, "burst": 0}]),
        ("QUOTAS", "E030", [{"key": "user", "rate": 2, "burst": 2.5}]),
        ("QUOTAS", "E030", [{"key": "user", "rate": 2, "burst": 7201}]),
        ("QUOTAS", "E030", [{"key": "usr", "max": 3}]),
        ("QUOTAS", "E030", [{"key": "no.such.place", "max": 3}]),
        ("QUOTAS", "E030", [{"key": f"{__name__}.TENANT", "max": 3}]),
        ("QUOTAS", "E030", [{"key": "user", "max": 3, "name": "User!"}]),
        ("QUOTAS", "E030", [{"key": "user", "max": 3, "name": "pending"}]),
        ("QUOTAS", "E030", [{"key": "user", "max": 3}, {"key": "user", "max": 4}]),
        ("QUOTAS", "E030", [{"key": "user", "max": 3, "name": f"n{number}"} for number in range(9)]),
        ("CLASSIFY", "E031", 5),
        ("CLASSIFY", "E031", "no.such.place"),
        ("CLASSIFY", "E031", f"{__name__}.TENANT"),
        ("SHARES", "E032", [("staff", 1)]),
        ("SHARES", "E032", {"staff": 1.1}),
        ("SHARES", "E032", {"staff": "1"}),
        ("SHARES", "E032", {"exempt": 1}),
        ("SHARES", "E032", {"": 1}),
        ("SHARES", "E032", {f"c{number}": 1 for number in range(17)}),
        ("TRUSTED_PROXIES", "E029", None),
        ("TRUSTED_PROXIES", "E029", -1),
        ("TRUSTED_PROXIES", "E029", True),
        ("TRUSTED_PROXIES", "E029", "10.0.0.0/8"),
        ("TRUSTED_PROXIES", "E029", ["10.0.0.1/8"]),
        ("TRUSTED_PROXIES", "E029", ["here"]),
        ("TRUSTED_PROXIES", "E029", [5]),
    ],
)
def test_bad_values(key, check, value):
    _, (problem,) = read(**{key: value})
    assert problem.id == f"channels_admission.{check}"
    assert problem.message.startswith(f"CHANNELS_ADMISSION['{key}'] must be ") or "no.such.place" in str(value)


def test_a_share_of_exempt_connections_is_told_to_be_in_vain():
    _, (problem,) = read(SHARES={"exempt": 1})
    assert problem.message.endswith(", not {'exempt': 1}. 'exempt' is always admitted and has no share.")


@pytest.mark.parametrize("name", ["slowly", "slow"])
def test_what_must_be_awaited_is_no_function_of_a_scope(name):
    path = f"{__name__}.{name}"
    keys = {
        "QUOTAS": [{"key": path, "max": 3}],
        "CLASSIFY": path,
        "PRESSURE": {"slow": {"MONITOR": path, "THRESHOLDS": (1, 2)}},
    }
    for key, value in keys.items():
        _, (problem,) = read(**{key: value})
        assert problem.message.startswith(f"CHANNELS_ADMISSION['{key}'] must be ")
        assert "callable without await" in problem.message
        assert problem.message.endswith(f"{path!r} is an async function.")


def test_a_key_that_is_nearly_built_in_is_named():
    _, (problem,) = read(QUOTAS=[{"key": "usr", "max": 3}])
    assert "Did you mean 'user'?" in problem.message


def test_proxies_by_number_and_by_network():
    assert read(TRUSTED_PROXIES=2)[0].trusted_proxies == Proxies(hops=2)
    networks = ["10.0.0.0/8", "fd00::/8", "192.0.2.1"]
    expected = Proxies(networks=tuple(map(ip_network, networks)))
    assert read(TRUSTED_PROXIES=networks)[0].trusted_proxies == expected
    assert not read()[0].trusted_proxies


def test_the_secret_follows_the_projects_own():
    with override_settings(SECRET_KEY="one"):
        one = conf.secret()
        assert conf.secret() == one
    with override_settings(SECRET_KEY="two"):
        assert conf.secret() != one
    assert b"one" not in one
