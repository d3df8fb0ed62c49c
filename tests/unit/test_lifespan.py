"""The worker's first and last word: by the lifespan protocol, and at the end of its process."""

import asyncio
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from channels_admission.ledger import open_ledger
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.lifespan import AdmissionLifespan
from channels_admission.lifespan import admission as within
from channels_admission.limiter import registry
from channels_admission.limiter.registry import EXIT_TIMEOUT, limiter_of
from channels_admission.signals import connection_refused

from demo.servers import TESTPROJECT, Redis, environment
from support.signals import listening
from support.waiting import eventually


async def workers(settings, pool="default"):
    """How many slots each worker holds, as the ledger knows."""
    ledger = open_ledger(settings)
    try:
        (reading,) = await ledger.read((pool,))
    finally:
        await ledger.aclose()
    return [worker.held for worker in reading.workers]


class Server:
    """The server's side of the lifespan protocol."""

    def __init__(self) -> None:
        self.events: asyncio.Queue = asyncio.Queue()
        self.answers: asyncio.Queue = asyncio.Queue()
        self.task = asyncio.ensure_future(AdmissionLifespan()({"type": "lifespan"}, self.events.get, self.answers.put))

    async def say(self, event):
        self.events.put_nowait({"type": event})
        return (await asyncio.wait_for(self.answers.get(), 2))["type"]


async def test_the_limiters_open_at_startup_and_say_goodbye_at_shutdown(admission):
    settings = admission(POOLS={"chat": {}})
    server = Server()
    assert await server.say("lifespan.startup") == "lifespan.startup.complete"
    for pool in ("default", "chat"):
        await eventually(lambda pool=pool: _are(settings, pool, [0]))
    slot = await limiter_of("chat").acquire()
    slot.release()
    assert await server.say("lifespan.shutdown") == "lifespan.shutdown.complete"
    await asyncio.wait_for(server.task, 1)
    for pool in ("default", "chat"):
        assert await workers(settings, pool) == []


MANY = [f"pool{number}" for number in range(8)]


async def test_at_the_end_of_a_process_many_pools_say_goodbye_in_the_time_of_one(admission):
    settings = admission(POOLS={pool: {} for pool in MANY})
    for pool in MANY:
        await limiter_of(pool).acquire()  # and is never released
    await registry._registries[asyncio.get_running_loop()].leave()
    assert [await workers(settings, pool) for pool in MANY] == [[]] * len(MANY)


async def test_the_end_of_a_process_waits_for_a_silent_ledger_no_longer_than_it_may(admission, monkeypatch):
    admission(POOLS={pool: {} for pool in MANY}, LEDGER_TIMEOUT=1)
    limiters = [limiter_of(pool) for pool in MANY]
    await eventually(lambda: all(limiter.state.workers for limiter in limiters))

    async def silent(*args):
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryLedger, "reconcile", silent)
    began = time.monotonic()
    await registry._registries[asyncio.get_running_loop()].leave()
    assert time.monotonic() - began < EXIT_TIMEOUT + 0.4
    await asyncio.wait([limiter.task for limiter in limiters], timeout=5)


async def test_the_end_of_a_process_closes_all_even_where_a_receiver_never_ends(admission):
    settings = admission(MAX_CONNECTIONS=0)
    told = []

    async def never_ends(**details):
        told.append(details["reason"])
        await asyncio.Event().wait()

    limiter = limiter_of("default")
    with listening((connection_refused, never_ends)):
        limiter.events.tell_verdict(await limiter.acquire(), limiter.state.worker)
        await eventually(lambda: told == ["full"])
        here = registry._registries[asyncio.get_running_loop()]
        began = time.monotonic()
        await here.leave()
        assert time.monotonic() - began < EXIT_TIMEOUT + 0.4
        await asyncio.wait([limiter.task], timeout=5)
    assert here.limiters == ()
    assert not registry._registries
    assert await workers(settings) == []
    limiter.events._task.cancel()


async def _are(settings, pool, held):
    return await workers(settings, pool) == held


async def test_where_admission_is_switched_off_nothing_opens(admission):
    settings = admission(ENABLED=False)
    server = Server()
    assert await server.say("lifespan.startup") == "lifespan.startup.complete"
    assert await server.say("lifespan.shutdown") == "lifespan.shutdown.complete"
    assert await workers(settings) == []


async def test_the_lifespan_of_another_framework_does_the_same(admission):
    settings = admission(POOLS={"chat": {}})
    with pytest.raises(RuntimeError, match="the application failed"):
        async with within():
            for pool in ("default", "chat"):
                await eventually(lambda pool=pool: _are(settings, pool, [0]))
            raise RuntimeError("the application failed")
    for pool in ("default", "chat"):
        assert await workers(settings, pool) == []


HOLD_AND_END = {
    "an event loop that was stopped": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(hold())
        print(loop.run_until_complete(counted()), flush=True)
    """,
    "an event loop in another thread": """
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(hold(), loop).result()
        print(asyncio.run_coroutine_threadsafe(counted(), loop).result(), flush=True)
    """,
    "an event loop that is interrupted": """
        async def connection():
            slot = await limiter_of("default").acquire()
            try:
                await asyncio.Event().wait()
            finally:
                slot.release()

        async def serve():
            tasks = [asyncio.ensure_future(connection()) for _ in range(3)]
            await asyncio.sleep(0.5)
            print(await counted(), flush=True)
            raise KeyboardInterrupt
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve())
    """,
}
SCRIPT = """
    import asyncio, contextlib, threading
    import django
    django.setup()
    from channels_admission.limiter.registry import limiter_of
    from channels_admission.ledger import open_ledger
    from channels_admission import conf

    slots = []

    async def hold():
        for _ in range(3):
            slots.append(await limiter_of("default").acquire())

    async def counted():
        ledger, held = open_ledger(conf.current()), []
        async with asyncio.timeout(10):
            while held != [3]:  # the last ones are told soon
                (reading,) = await ledger.read(("default",))
                held = [worker.held for worker in reading.workers]
                await asyncio.sleep(0.02)
        await ledger.aclose()
        return held
"""


@pytest.mark.parametrize("how", HOLD_AND_END)
def test_a_process_that_ends_with_slots_held_gives_them_back(admission, prefix, redis_server, how):
    keys = {"LEDGER": redis_server.url, "PREFIX": prefix, "HEARTBEAT": 5, "LEASE": 50}
    settings = admission(**keys)
    script = textwrap.dedent(SCRIPT) + textwrap.dedent(HOLD_AND_END[how])
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(redis_server.url, keys), capture_output=True, text=True,
        timeout=30, cwd=TESTPROJECT,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "[3]\n", "")
    assert asyncio.run(workers(settings)) == []


KILLED = """
    def mine(number, frame):
        sys.exit(3)

    if sys.argv[1] == "handled":
        signal.signal(signal.SIGTERM, mine)

    async def serve():
        await hold()
        print(await counted(), signal.getsignal(signal.SIGTERM) is mine, flush=True)
        await asyncio.sleep(30)

    asyncio.run(serve())
"""


@pytest.mark.parametrize("ledger", ["answers", "silent"])
@pytest.mark.parametrize("whose", ["default", "handled"])
def test_a_signal_that_kills_says_goodbye_first_and_a_handler_of_the_site_stays(admission, prefix, whose, ledger):
    with Redis() as redis:
        keys = {"LEDGER": redis.url, "PREFIX": prefix, "HEARTBEAT": 5, "LEASE": 50}
        settings = admission(**keys)
        script = textwrap.dedent(SCRIPT) + "import signal, sys\n" + textwrap.dedent(KILLED)
        process = subprocess.Popen(
            [sys.executable, "-c", script, whose], env=environment(redis.url, keys), cwd=TESTPROJECT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout.readline() == f"[3] {whose == 'handled'}\n"
        if ledger == "silent":
            redis.pause()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        if whose == "default":
            process.send_signal(signal.SIGTERM)  # as multiprocessing does with its daemons
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == (3 if whose == "handled" else -signal.SIGTERM)
        assert rest == "" or whose == "handled"
        if ledger == "silent":
            assert time.monotonic() - began < settings.ledger_timeout + 2
            redis.resume()
        elif whose == "default":
            assert asyncio.run(workers(settings)) == []
