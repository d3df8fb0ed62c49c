"""The Python client: its rule in exact numbers, and what it does with real answers."""

import asyncio
import math
import re
import subprocess
import sys
from contextlib import aclosing, asynccontextmanager, suppress
from http import HTTPStatus

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response

from channels_admission.client import MOST_TEXT, Ending, Retries, RetryPolicy, connections
from channels_admission.limiter.connections.asgi import REPLACED

from demo.servers import Workers
from support.answers import Watch
from support.conformance import cases, tickets

UP = 60.0
"""Seconds; long enough for every failure before to be forgotten."""


def waits(*endings, draw=1.0):
    """The waits after each ending, every random draw being the same."""
    retries = Retries(RetryPolicy(), lambda: draw)
    return [retries.after(ending) for ending in endings]


# The rule


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        ("Try Again Later; retry-after=12.3", 12.3),
        ("Try Again Later;retry-after=17", 17.0),
        ("retry-after=3600", 3600.0),
        ("retry-after=0.5", 0.5),
        ("retry-after=0.125", 0.5),
        ("retry-after=0", 0.5),
    ],
)
def test_a_hint_is_followed_exactly_but_for_the_floor(reason, seconds):
    assert waits(Ending(1013, reason), draw=0.77) == [seconds]


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "Try Again Later",
        "retry-after=",
        "retry-after=-3",
        "retry-after=nan",
        "retry-after=1e3",
        "retry-after=3600.1",
        "retry-after=99999",
        "retry-after=100000",
        "retry-after=1.2345",
        "retry-after=.5",
        "retry-after=５",
        "retry-after=12 ",
        "retry-after=12\n",
        "retry-after=12; thank you",
        "not-retry-after=12",
        "RETRY-AFTER=12",
    ],
)
def test_any_other_hint_is_ignored(reason):
    assert waits(Ending(1013, reason), draw=1.0) == [1.0]


@pytest.mark.parametrize(
    "keys",
    [{"floor": -1}, {"floor": math.nan}, {"min_uptime": -0.1}, {"max_hint": math.nan}]
    + [{name: math.inf} for name in ("floor", "base", "cap", "first_retry_window", "settle")],
)
def test_a_policy_refuses_what_would_make_a_client_hammer(keys):
    with pytest.raises(ValueError, match=rf"^{next(iter(keys))} of a RetryPolicy cannot be"):
        RetryPolicy(**keys)


def test_a_hint_may_be_of_any_length_and_failures_need_not_be_forgotten():
    assert RetryPolicy(max_hint=math.inf, min_uptime=math.inf).hint("retry-after=99999") == 99999


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (0.0, [0.5] * 8),
        (0.5, [0.75, 1.25, 2.25, 4.25, 8.25, 16.25, 30.25, 30.25]),
        (1.0, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]),
    ],
)
def test_without_a_hint_the_wait_is_drawn_from_a_range_that_doubles(draw, expected):
    assert waits(*[Ending(1013)] * 8, draw=draw) == expected


def test_the_range_ends_at_the_cap_however_many_fail():
    assert waits(*[Ending()] * 5000)[-1] == 60.0


@pytest.mark.parametrize(("draw", "seconds"), [(0.0, 0.5), (0.5, 2.75), (1.0, 5.0)])
@pytest.mark.parametrize("code", [None, 1006, 1011, 1012])
def test_the_first_retry_after_a_loss_is_spread_over_a_window(code, draw, seconds):
    assert waits(Ending(code, "", UP), draw=draw) == [seconds]


def test_a_hint_wins_over_the_window():
    assert waits(Ending(1013, "retry-after=2.5", UP)) == [2.5]


def test_a_refusal_that_was_open_for_a_while_is_no_loss():
    assert waits(Ending(1013, "", 0.099)) == [1.0]
    assert waits(Ending(1013, "", 0.1)) == [5.0]


def test_failures_are_forgotten_after_five_seconds_of_open_time_only():
    failed = [Ending()] * 3
    assert waits(*failed, Ending(1006, "", 4.999)) == [1.0, 2.0, 4.0, 8.0]
    assert waits(*failed, Ending(1006, "", 5.0), Ending()) == [1.0, 2.0, 4.0, 5.0, 2.0]


def test_hinted_waits_count_as_attempts():
    assert waits(Ending(1013, "retry-after=9"), Ending()) == [9.0, 2.0]


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 1010, 3000, 4000, 4012, 4014, REPLACED, 4999])
def test_no_retry_after_a_final_code(code):
    assert waits(Ending(code, "no", UP)) == [None]


@pytest.mark.parametrize("code", [1000, 1008, 4001])
def test_a_hint_says_that_a_code_is_not_final(code):
    assert waits(Ending(code, "retry-after=7")) == [7.0]


@pytest.mark.parametrize("code", [None, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015, 4013])
def test_other_codes_are_worth_a_retry(code):
    assert waits(Ending(code)) == [1.0]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 511, 520, 521, 522, 530, 599])
def test_a_passing_answer_is_worth_a_retry(status):
    assert waits(Ending(status)) == [1.0]
    assert waits(Ending(status, "retry-after=7")) == [7.0]


ANSWERS = [200, 301, 302, 307, 400, 403, 404, 405, 409, 421, 426, 451, 600]
LASTING = [401, 407, 410]


@pytest.mark.parametrize("status", [*ANSWERS, *LASTING])
def test_any_other_answer_is_not_even_with_a_hint(status):
    assert waits(Ending(status, "retry-after=7")) == [None]


@pytest.mark.parametrize("status", ANSWERS)
def test_a_client_that_has_been_up_takes_it_for_a_restart(status):
    assert waits(Ending(1006, "", UP), Ending(status), Ending(status, "retry-after=7")) == [5.0, 2.0, 7.0]
    assert waits(Ending(1006, "", 0.1), Ending(), Ending(status)) == [5.0, 2.0, 4.0]
    assert waits(Ending(1006, "", 0.099), Ending(status)) == [1.0, None]
    assert waits(Ending(1013, "retry-after=7"), Ending(status)) == [7.0, None]


@pytest.mark.parametrize("status", LASTING)
def test_some_answers_are_final_for_such_a_client_too(status):
    assert waits(Ending(1006, "", UP), Ending(status, "retry-after=7")) == [5.0, None]


def test_a_close_frame_is_as_final_for_such_a_client_as_for_any():
    assert waits(Ending(1006, "", UP), Ending(1008, "no", UP)) == [5.0, None]


def test_the_client_needs_no_django():
    check = "import sys, channels_admission.client; sys.exit('django' in sys.modules or 'channels' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


# The connections


@asynccontextmanager
async def a_server(handler=None, answer=None):
    """The URL of a server of this process: ``handler`` runs each connection, ``answer`` each handshake before."""

    async def hold(connection):
        await connection.wait_closed()

    async with serve(handler or hold, "127.0.0.1", 0, process_request=answer) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def follow(sockets):
    """The messages of all connections until the iteration ends."""
    heard = []
    async for socket in sockets:
        try:
            async for message in socket:
                heard.append(message)
        except ConnectionClosed:
            pass
    return heard


async def test_refused_clients_come_when_they_are_told_to_and_stop_at_1000():
    closes = iter([(1013, "Try Again Later; retry-after=12.3"), (1013, "busy"), (1012, ""), (1000, "done")])

    async def refuse(connection):
        code, reason = next(closes)
        await connection.send(str(code))
        await connection.close(code, reason)

    watch = Watch()
    async with a_server(refuse) as url:
        assert await follow(watch.connections(url)) == ["1013", "1013", "1012", "1000"]
    assert watch.told == [(12.3, 1, 1013), (2.0, 2, 1013), (4.0, 3, 1012)]
    assert watch.now == 18.3


async def test_a_connection_that_breaks_after_a_while_is_a_loss():
    async def break_off(connection):
        await connection.recv()
        connection.transport.abort()

    watch = Watch()
    async with a_server(break_off) as url, aclosing(watch.connections(url)) as sockets:
        first = await anext(sockets)
        watch.now += 5.0
        await first.send("go")
        with pytest.raises(ConnectionClosed):
            await first.recv()
        await anext(sockets)
    assert watch.told == [(5.0, 1, 1006)]


async def test_time_spent_after_the_end_is_no_open_time():
    async def refuse(connection):
        await connection.close(1013, "busy")

    watch = Watch()
    async with a_server(refuse) as url, aclosing(watch.connections(url)) as sockets:
        for _ in range(3):
            socket = await anext(sockets)
            await socket.wait_closed()
            await asyncio.sleep(0)
            watch.now += 100
        assert watch.told == [(1.0, 1, 1013), (2.0, 2, 1013)]


async def test_coming_back_with_an_open_connection_closes_it_and_waits():
    watch = Watch()
    async with a_server() as url, aclosing(watch.connections(url)) as sockets:
        first = await anext(sockets)
        watch.now += 1.0
        second = await anext(sockets)
        assert (first.close_code, second.close_code) == (1000, None)
    assert watch.told == [(5.0, 1, None)]
    assert second.close_code == 1000


async def test_closing_a_connection_ends_the_iteration():
    async with a_server() as url:
        seen = 0
        async for socket in Watch().connections(url):
            seen += 1
            await socket.close()
    assert seen == 1


def answer_once(status, body, **headers):
    """Answers the first handshake so, and lets the others through."""
    answers = [status]

    def answer(connection, request):
        if not answers:
            return None
        response = connection.respond(answers.pop(), body)
        for name, value in headers.items():
            response.headers[name.replace("_", "-")] = value
        return response

    return answer


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ("Try Again Later; retry-after=12.3", {"Retry_After": "13"}, 12.3),
        ("Try Again Later", {"Retry_After": "13"}, 13.0),
        ("Try Again Later", {"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0),
        ("", {}, 1.0),
    ],
)
@pytest.mark.parametrize("status", [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS])
async def test_an_http_refusal_is_retried_by_its_body_or_its_header(status, body, headers, seconds):
    watch = Watch()
    async with (
        a_server(answer=answer_once(status, body, **headers)) as url,
        aclosing(watch.connections(url)) as sockets,
    ):
        await anext(sockets)
    assert watch.told == [(seconds, 1, int(status))]


SUFFIX = b"Connection: close\r\n\r\n"
TRY = b"HTTP/1.1 503 Service Unavailable\r\n"


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (TRY + b"Retry-After: 9\r\nRetry-After: 7\r\nContent-Length: 0\r\n" + SUFFIX, 7.0),
        (TRY + b"Retry-After: 0\r\nRetry-After: 7\r\nContent-Length: 0\r\n" + SUFFIX, 0.5),
        (TRY + b"Retry-After: 99999, 12,-1,nan,1e9\r\nContent-Length: 0\r\n" + SUFFIX, 12.0),
        (TRY + b"Retry-After: 99999\r\nRetry-After: soon\r\nContent-Length: 0\r\n" + SUFFIX, 1.0),
        (TRY + b"Retry-After: 5\x01\r\n" + SUFFIX, 1.0),
        (TRY + b"Content-Length: 2000000\r\n" + SUFFIX + b"a" * 2_000_000, 1.0),
        (TRY + SUFFIX + b"; " * 520_000 + b"retry-after=3", 3.0),
        (TRY + SUFFIX + b"a" * 2_000_000, 1.0),
        (TRY + b"A: b\r\n" * 300 + SUFFIX, 1.0),
        (b"HTTP/1.1 503 " + b"a" * 10_000 + b"\r\n" + SUFFIX, 1.0),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 1.0),
    ],
    ids=[
        "two hints", "one below the floor", "a list", "no sane one", "no text", "2 MB announced", "1 MB with a hint",
        "2 MB", "300 headers", "a long status", "another protocol",
    ],
)  # fmt: skip
async def test_no_answer_ends_the_iteration_or_has_it_wait_for_ever(answer, seconds):
    told, answered = asyncio.Event(), asyncio.Event()

    async def reply(reader, writer):
        with suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()
            await writer.wait_closed()
        answered.set()

    async def sleep(seconds):
        told.set()
        await asyncio.Event().wait()

    watch = Watch()
    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        attempt = asyncio.ensure_future(anext(watch.connections(f"ws://127.0.0.1:{port}/", sleep=sleep)))
        async with asyncio.timeout(10):
            await asyncio.wait([attempt, asyncio.ensure_future(told.wait())], return_when=asyncio.FIRST_COMPLETED)
            await answered.wait()
        attempt.cancel()
        with suppress(asyncio.CancelledError):
            await attempt
    assert [wait.seconds for wait in watch.waits] == [seconds]
    assert len(watch.waits[0].ending.reason) <= MOST_TEXT


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND])
async def test_an_answer_that_no_retry_can_mend_is_raised(status):
    async with a_server(answer=answer_once(status, "retry-after=3", Retry_After="3")) as url:
        with pytest.raises(InvalidStatus) as error:
            await anext(Watch().connections(url))
    assert error.value.response.status_code == status


async def test_a_server_that_is_away_or_hangs_up_is_tried_again(unused_tcp_port):
    address = "127.0.0.1", unused_tcp_port
    watch, running = Watch(), []

    async def hang_up(reader, writer):
        writer.close()

    async def sleep(seconds):
        await watch.sleep(seconds)
        if len(watch.waits) == 2:
            running.append(await asyncio.start_server(hang_up, *address))
        if len(watch.waits) == 3:
            running.pop().close()
            running.append(await serve(lambda socket: socket.wait_closed(), *address))

    async with aclosing(watch.connections(f"ws://127.0.0.1:{unused_tcp_port}/", sleep=sleep)) as sockets:
        await anext(sockets)
    running.pop().close()
    assert watch.told == [(1.0, 1, None), (2.0, 2, None), (4.0, 3, None)]


# Tickets

FIRST, SECOND = tickets().values()
HEADER = "Admission-Ticket"


class Script:
    """A server whose handshakes end as the steps of a case say, one after the other; its clock gives the open times."""

    def __init__(self, steps):
        self.endings = iter([step["ending"] for step in steps])
        self.ending = None
        self.requests = []
        self.now = 0.0

    def answer(self, connection, request):
        self.requests.append(request.headers)
        self.ending = next(self.endings, {"close": 1000, "reason": "", "uptime": 0})
        if self.ending.get("nothing"):
            connection.transport.abort()
        if "status" not in self.ending:
            return None
        body = self.ending["body"].encode()
        headers = Headers([*self.ending["headers"], ("Content-Length", str(len(body))), ("Connection", "close")])
        return Response(self.ending["status"], "", headers, body)

    async def handle(self, connection):
        await connection.recv()
        self.now += self.ending["uptime"]
        if self.ending.get("lost"):
            connection.transport.abort()
            return
        code, reason = self.ending["close"], self.ending["reason"].encode()
        payload = b"" if code == 1005 else code.to_bytes(2) + reason
        connection.transport.write(bytes([0x88, len(payload)]) + payload)
        await connection.wait_closed()

    async def run(self, draw, **options):
        """The waits of a client whose every draw is this one."""
        watch = Watch()
        async with a_server(self.handle, self.answer) as url:
            sockets = watch.connections(url, rng=lambda: draw, clock=lambda: self.now, **options)
            with suppress(InvalidStatus):
                async for socket in sockets:
                    await socket.send("open")
                    await socket.wait_closed()
        return watch.waits


@pytest.mark.parametrize("bound", [0, 1], ids=["shortest", "longest"])
@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case['number']}: {case['title']}")
async def test_every_case_of_the_conformance_list_holds(case, bound):
    steps = case["steps"]
    script = Script(steps)
    waits = await script.run(bound)
    assert [wait.seconds for wait in waits] == [step["wait"][bound] for step in steps if step["wait"]]
    assert [wait.ticket or None for wait in waits] == [step["ticket"] for step in steps if step["wait"]]
    assert [wait.has_place for wait in waits] == [bool(wait.ticket) for wait in waits]
    sent = [headers.get_all(HEADER) for headers in script.requests]
    assert sent == [[], *([wait.ticket] if wait.ticket else [] for wait in waits)]


def refusal(*tickets):
    reasons = [f"Try Again Later; ticket={ticket}; retry-after=7" for ticket in tickets]
    return [{"ending": {"close": 1013, "reason": reason, "uptime": 0}} for reason in reasons]


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Own", "1"), ("X-Own", "2"), (HEADER, "mine")],
        Headers([("X-Own", "1"), ("X-Own", "2"), (HEADER, "mine")]),
        iter([("X-Own", "1"), ("X-Own", "2"), (HEADER.lower(), "mine")]),
    ],
    ids=["a list", "headers", "an iterator"],
)
async def test_the_ticket_joins_the_headers_of_the_program(headers):
    script = Script(refusal(FIRST, SECOND))
    await script.run(0, additional_headers=headers)
    assert [sent.get_all("X-Own") for sent in script.requests] == [["1", "2"]] * 3
    assert [sent.get_all(HEADER) for sent in script.requests] == [["mine"], [FIRST], [SECOND]]


async def test_the_headers_of_the_program_are_not_changed():
    headers = Headers({"X-Own": "1"})
    await Script(refusal(FIRST)).run(0, additional_headers=headers)
    assert list(headers.raw_items()) == [("X-Own", "1")]


async def test_the_ticket_follows_a_redirect_to_the_server_that_gave_it():
    script = Script(refusal(FIRST))

    def redirect(connection, request):
        return Response(302, "", Headers({"Location": target, "Content-Length": "0"}))

    async with (
        a_server(script.handle, script.answer) as target,
        a_server(answer=redirect) as url,
        aclosing(Watch().connections(url, clock=lambda: script.now)) as sockets,
    ):
        for _ in range(2):
            socket = await anext(sockets)
            await socket.send("open")
            await socket.wait_closed()
    assert [sent.get_all(HEADER) for sent in script.requests] == [[], [FIRST]]


# Real servers


@pytest.mark.integration
@pytest.mark.parametrize(("refuse_with", "code"), [("close", 1013), ("http", 503)])
@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "granian"])
async def test_a_real_refusal_is_waited_out(redis_server, prefix, server, refuse_with, code):
    settings = {
        "MAX_CONNECTIONS": 1, "LEDGER": redis_server.url, "PREFIX": prefix,
        "REFUSE_WITH": refuse_with, "RETRY_AFTER": [1, 2],
    }  # fmt: skip
    with Workers(server, 1, redis_url=redis_server.url, settings=settings) as running:
        url = running.origin.replace("http", "ws") + "/ws/echo/"
        options = {"origin": running.origin, "proxy": None}
        holding = await connect(url, **options)
        await holding.send("pid")
        await holding.recv()

        async def sleep(seconds):
            await holding.close()
            await asyncio.sleep(seconds)

        waits = []
        async for socket in connections(url, on_wait=waits.append, sleep=sleep, **options):
            with suppress(ConnectionClosed):
                await socket.send("hello")
                assert await socket.recv() == "hello"
                await socket.close()
        (wait,) = waits
        assert (wait.ending.code, wait.attempt) == (code, 1)
        assert 1 <= wait.seconds <= 2
        assert wait.has_place
        assert re.search(r"(^|; )ticket=[\w-]{24}; retry-after=[\d.]+$", wait.ending.reason)
