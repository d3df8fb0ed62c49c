"""No password, token or webhook in anything that is shown, whatever the form in which it was given."""

import asyncio
import io
import logging
from contextlib import suppress
from string import ascii_letters, digits, printable
from urllib.parse import quote, unquote

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client, override_settings
from hypothesis import HealthCheck, example, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from redis.exceptions import AuthenticationError, ConnectionError

from channels_admission import conf
from channels_admission.ledger import open_ledger
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.status import cache

from demo.servers import Redis
from support.effort import some_of
from support.waiting import eventually

CORE = "sEcr3t"
"""A part of every secret here, and of nothing else."""
TOKEN = f"{CORE}-{'t' * 40}"
HOOK = f"https://127.0.0.1:1/services/{CORE}?key={CORE}"

FORMS = {
    "url": lambda it: f"redis://:{it}@127.0.0.1:1/0",
    "url with a user": lambda it: f"redis://user:{it}@127.0.0.1:1/3?socket_timeout=1",
    "secret for a user": lambda it: f"rediss://{it}@127.0.0.1:1",
    "no @": lambda it: f"redis://user:{it}",
    "query": lambda it: f"redis://127.0.0.1:1?password={it}&username=user",
    "query of a socket": lambda it: f"unix:///nowhere/redis.sock?password={it}",
    "socket": lambda it: f"unix://user:{it}@/nowhere/redis.sock",
    "one slash": lambda it: f"redis:/:{it}@127.0.0.1",
    "list of urls": lambda it: [f"redis://:{it}@127.0.0.1:1"],
    "address": lambda it: {"address": f"redis://:{it}@127.0.0.1:1/2", "socket_timeout": 1},
    "dict": lambda it: {"host": "127.0.0.1", "port": 1, "password": it},
    "dict beside an address": lambda it: {"address": "redis://127.0.0.1:1", "password": it},
    "url for a host": lambda it: {"host": f"redis://:{it}@127.0.0.1:1"},
    "secret for a port": lambda it: ("127.0.0.1", it),
    "secret for a database": lambda it: {"host": "127.0.0.1", "db": it},
    "secret for an option": lambda it: {"address": f"redis://127.0.0.1?{it}=1"},
    "sentinels": lambda it: {
        "sentinels": [("127.0.0.1", 1)], "master_name": "main", "password": it, "sentinel_kwargs": {"password": it},
    },
    "backend": lambda it: {"BACKEND": "redis", "HOSTS": [f"redis://:{it}@127.0.0.1:1"]},
    "secret for a backend": lambda it: {"BACKEND": it},
    "secret for a key": lambda it: {"BACKEND": "redis", it: 1},
    "cluster": lambda it: {"CLUSTER": True, "HOSTS": [f"redis://:{it}@127.0.0.1:1", f"redis://:{it}@127.0.0.1:2"]},
    "hosts of a cluster": lambda it: {"CLUSTER": True, "HOSTS": [{"host": "127.0.0.1", "port": 1, "password": it}]},
}  # fmt: skip
MEANT = ("url", "url with a user", "query", "socket", "list of urls", "address", "dict", "backend")
"""Forms in which the secret is a password, so that it must arrive as it reads."""


def _of(alphabet: str) -> st.SearchStrategy[str]:
    around = st.text(alphabet, max_size=8)
    return st.builds("{}{}{}".format, around, st.just(CORE), around)


SECRETS = _of(printable + "äß€ \xa0") | _of(digits + "/@:?#[]&=+%") | _of(ascii_letters + digits + "+/=")


@given(secret=SECRETS, form=st.sampled_from(sorted(FORMS)), encoded=st.booleans())
@example(f"42/{CORE}", "url", False)
@example(f"42/{CORE}", "url with a user", False)
@example(f"42?{CORE}=x", "url with a user", False)
@example(f"42#{CORE}", "url with a user", False)
@example(f"{CORE}\\'", "dict", False)
@example(f"{CORE}S", "secret for a key", False)
@example(f"{CORE}:0", "secret for a user", False)
@example(f"{CORE}%00", "query", True)
@example(f"%30{CORE}%41", "query", True)
@budget(max_examples=some_of(400), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_form_of_a_ledger_tells_its_password(secret, form, encoded):
    written = quote(secret, safe="") if encoded else secret
    given = FORMS[form](written)
    with override_settings(CHANNELS_ADMISSION={"LEDGER": given, "ALERTS": {"WEBHOOK": HOOK}, "STATUS_TOKEN": TOKEN}):
        settings, problems = conf.examine()
        told = [repr(problems), repr(settings)]
        if settings is None:
            assert not encoded or form not in MEANT
            with pytest.raises(conf.ConfigurationError) as error:
                conf.current()
            told.append(str(error.value))
        else:
            told += asyncio.run(_tell(settings, written if form in MEANT else None))
    assert CORE not in "\n".join(told)


async def _tell(settings, written):
    """What a ledger says of itself, and of errors that quote its password."""
    ledger = open_ledger(settings)
    told, passwords = [ledger.address, repr(ledger)], {each for each in ledger._passwords if CORE in each}
    if written is not None:
        sent = ledger._connections.pool.connection_kwargs["password"]
        # Older versions of redis-py decode a query twice.
        assert sent in (written, unquote(written), unquote(unquote(written)))
        passwords.add(sent)
    for password in passwords:
        for error in (
            ConnectionError(password),
            AuthenticationError(repr(f"<{password!r}>")),
            ValueError(f"a{password}"),
        ):
            told.append(str(await ledger._fault(error)))
    if settings.ledger.host is not None:
        told.append(str(await ledger._fault(ValueError(dict(settings.ledger.host)))))
    await ledger.aclose()
    return told


@pytest.fixture
def guarded():
    """The URL of a Redis with a user whose password has everything in it."""
    password = f"42/{CORE}+=@:#?"
    with Redis("--user", "app", "on", f">{password}", "~test-*", "+@all") as server:
        yield f"redis://app:{quote(password, safe='')}@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize("works", [True, False], ids=["right", "wrong"])
def test_nothing_that_people_or_programs_see_tells_a_secret(
    admission, guarded, works, caplog, monkeypatch, admin_client
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(cache, "_remembered", None)
    url = guarded if works else guarded.replace(CORE, f"{CORE}-wrong")
    admission(LEDGER=url, HEARTBEAT=0.1, LEASE=30, ALERTS={"WEBHOOK": HOOK, "LEDGER": True}, STATUS_TOKEN=TOKEN)
    asyncio.run(_hear(away=not works))
    seen = _look(admin_client)
    assert f"127.0.0.1:{url.rpartition(':')[2].partition('/')[0]}/0" in seen
    assert CORE not in seen + caplog.text


async def _hear(*, away: bool) -> None:
    """Let a limiter have the ledger, or lose it, with all that it then logs."""
    state = limiter_of("default").state
    await eventually(lambda: state.away if away else state.calls.made)
    await close_limiters()


def _look(admin_client) -> str:
    out = io.StringIO()
    for options in ([], ["--json"], ["--diagnose"], ["--diagnose", "--json"]):
        with suppress(CommandError, SystemExit):
            call_command("ws_status", *options, stdout=out, stderr=out)
    with suppress(CommandError, SystemExit):
        call_command("check", "--deploy", stdout=out, stderr=out)
    for page in ("/admin/channels_admission/pool/", "/admin/channels_admission/pool/feed/"):
        response = admin_client.get(page)
        assert response.status_code == 200
        out.write(response.content.decode())
    for url in ("/admission/status.json", "/admission/metrics", "/admission/readiness/"):
        response = Client().get(url, headers={"Authorization": f"Bearer {TOKEN}"})
        assert response.status_code == 200
        out.write(f"{response.headers}{response.content.decode()}")
    return out.getvalue()
