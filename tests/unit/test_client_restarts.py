"""The Python client before a server that restarts: what proxies and gateways answer for it, byte by byte."""

import ssl
from contextlib import aclosing

import pytest
import trustme
from websockets.exceptions import InvalidHandshake, InvalidProxyStatus, InvalidStatus, InvalidURI

from support.answers import OPEN, RESET, Watch, after_uptime, answering, http

UP = 60.0
"""Seconds; long enough for every failure before to be forgotten."""
FIRST_RETRY = (5.0, 1, 1006)
ELSEWHERE = "https://status.example.org/"

PASSING = {
    **{f"HTTP {status}": (http(status), status) for status in (408, 425, 429, 500, 501, 505, 511, 521, 522, 530, 599)},
    "two hints that are too long": (http(521, "Retry-After: 86400", "Retry-After: 99999"), 521),
    "no answer": (RESET, None),
    "half an answer": (b"HTTP/1.1 101 Switching Pro", None),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", None),
    "2 MB": (b"HTTP/1.1 521 Answer\r\n\r\n" + b"a" * 2_000_000, None),
}
"""Answers that pass for every client, with the code that the wait tells."""

RESTARTING = {
    **{f"HTTP {status}": (http(status), status) for status in (200, 204, 400, 403, 404, 405, 409, 426, 451)},
    "a page": (http(200, "Content-Type: text/html", body="<h1>Back soon</h1>"), 200),
    "a redirect without an aim": (http(302), 302),
    "a redirect to a page": (http(302, f"Location: {ELSEWHERE}"), None),
    "a redirect to itself": (http(307, "Location: /"), None),
    "a redirect to another host's page": (http(302, "Location: //status.example.org:x/"), None),
    "a redirect to no host": (http(302, "Location: ws://[/"), None),
    "a redirect to no name": (http(302, "Location: ws://a..b/"), None),
    "a redirect to no port": (http(302, "Location: ws://127.0.0.1:70000/"), None),
    "two redirects": (http(302, "Location: /a", "Location: /b"), None),
    "a redirect to an unknown name": (http(302, "Location: ws://name.invalid/"), None),
    "an upgrade to another protocol": (http(101, "Upgrade: h2c"), None),
    "an upgrade without a key": (http(101, "Connection: Upgrade", "Upgrade: websocket"), None),
}
"""Answers that pass only for a client that has been up."""


@pytest.mark.parametrize("name", PASSING)
async def test_what_passes_for_every_client(name):
    answer, code = PASSING[name]
    watch = Watch()
    async with (
        answering(answer, answer, OPEN) as port,
        aclosing(watch.connections(f"ws://127.0.0.1:{port}/")) as sockets,
    ):
        await anext(sockets)
    assert watch.told == [(1.0, 1, code), (2.0, 2, code)]


@pytest.mark.parametrize("name", [*PASSING, *RESTARTING])
async def test_what_passes_for_a_client_that_has_been_up(name):
    answer, code = (PASSING | RESTARTING)[name]
    watch = Watch()
    looped = name == "a redirect to itself"
    async with (
        answering(OPEN, *[answer] * (10 if looped else 2), OPEN) as port,
        aclosing(watch.connections(f"ws://127.0.0.1:{port}/")) as sockets,
    ):
        await after_uptime(watch, sockets, UP)
    failures = [(2.0, 2, code)] if looped else [(2.0, 2, code), (4.0, 3, code)]
    assert watch.told == [FIRST_RETRY, *failures]
    assert all(isinstance(wait.ending.error, Exception) for wait in watch.waits[1:])


@pytest.mark.parametrize("name", sorted(RESTARTING.keys() - {"a redirect to itself", "a redirect to an unknown name"}))
async def test_what_ends_the_iteration_of_a_client_that_has_not_been_up(name):
    answer, _ = RESTARTING[name]
    watch = Watch()
    async with answering(answer) as port:
        with pytest.raises((InvalidHandshake, InvalidURI, ValueError, LookupError)):
            await anext(watch.connections(f"ws://127.0.0.1:{port}/"))
    assert watch.told == []


@pytest.mark.parametrize("status", [401, 410])
async def test_what_ends_it_for_a_client_that_has_been_up(status):
    watch = Watch()
    async with (
        answering(OPEN, http(status, "Retry-After: 7")) as port,
        aclosing(watch.connections(f"ws://127.0.0.1:{port}/")) as sockets,
    ):
        with pytest.raises(InvalidStatus) as raised:
            await after_uptime(watch, sockets, UP)
    assert raised.value.response.status_code == status
    assert watch.told == [FIRST_RETRY]


async def test_a_connection_that_was_closed_at_once_shows_nothing():
    watch = Watch()
    async with (
        answering(OPEN, http(404)) as port,
        aclosing(watch.connections(f"ws://127.0.0.1:{port}/")) as sockets,
    ):
        with pytest.raises(InvalidStatus):
            await after_uptime(watch, sockets, 0.09375)
    assert watch.told == [(1.0, 1, 1006)]


async def test_another_subprotocol_passes_for_a_client_that_has_been_up():
    answer = http(101, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: v1")
    watch = Watch()
    async with (
        answering(OPEN, answer, OPEN) as port,
        aclosing(watch.connections(f"ws://127.0.0.1:{port}/", subprotocols=["v2"])) as sockets,
    ):
        await after_uptime(watch, sockets, UP)
    assert watch.told == [FIRST_RETRY, (2.0, 2, None)]


async def test_a_program_may_end_it_in_the_wait():
    class Enough(Exception):
        pass

    def judge(wait):
        if wait.ending.code == 403:
            raise Enough

    watch = Watch()
    async with (
        answering(OPEN, http(403)) as port,
        aclosing(watch.connections(f"ws://127.0.0.1:{port}/", on_wait=judge)) as sockets,
    ):
        with pytest.raises(Enough):
            await after_uptime(watch, sockets, UP)


async def test_a_wrong_option_is_raised():
    with pytest.raises(ValueError, match="incompatible"):
        await anext(Watch().connections("ws://127.0.0.1/", ssl=ssl.create_default_context()))
    with pytest.raises(InvalidURI):
        await anext(Watch().connections("http://127.0.0.1/"))


async def test_a_name_that_is_not_found_is_tried_again():
    class Enough(Exception):
        pass

    def judge(wait):
        waits.append(wait)
        if len(waits) == 2:
            raise Enough

    waits = []
    with pytest.raises(Enough):
        await anext(Watch().connections("ws://name.invalid/", on_wait=judge))
    assert [wait.seconds for wait in waits] == [1.0, 2.0]


# TLS


def contexts(*names):
    """The context of a client, and one of a server whose certificate is for each name, the first one being in use."""
    authority = trustme.CA()
    client = ssl.create_default_context()
    authority.configure_trust(client)
    certificates = [authority.issue_cert(name) for name in names]
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificates[0].configure_cert(server)
    return client, server, certificates


async def test_a_tls_handshake_that_breaks_is_tried_again():
    client, _, _ = contexts("127.0.0.1")
    watch = Watch()
    for answer in (RESET, http(400), b"\r\n\r\n"):

        async def sleep(seconds):
            raise StopAsyncIteration

        async with answering(answer) as port:
            with pytest.raises(RuntimeError, match="StopAsyncIteration"):
                await anext(watch.connections(f"wss://127.0.0.1:{port}/", ssl=client, sleep=sleep))
    assert watch.told == [(1.0, 1, None)] * 3


async def test_a_certificate_of_another_passes_for_a_client_that_has_been_up():
    client, server, (own, other) = contexts("127.0.0.1", "ingress.invalid")
    watch = Watch()

    async def sleep(seconds):
        await watch.sleep(seconds)
        (other if len(watch.waits) == 1 else own).configure_cert(server)

    async with answering(OPEN, context=server) as port:
        url = f"wss://127.0.0.1:{port}/"
        async with aclosing(watch.connections(url, ssl=client, sleep=sleep)) as sockets:
            await after_uptime(watch, sockets, UP)
        assert watch.told == [FIRST_RETRY, (2.0, 2, None)]
        assert isinstance(watch.waits[1].ending.error, ssl.SSLCertVerificationError)
        other.configure_cert(server)
        with pytest.raises(ssl.SSLCertVerificationError):
            await anext(watch.connections(url, ssl=client))


# Forward proxies

TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"
TICKET = "ZDzeqmQ84qoqGh5SPe0XbA3_"


@pytest.mark.parametrize("url", ["ws://server.invalid/", "wss://server.invalid/"])
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (http(503, "Retry-After: 7", f"Admission-Ticket: {TICKET}"), 503),
        (http(502), 502),
        (http(429), 429),
        (RESET, None),
        (TUNNEL, None),
        (b"SSH-2.0-OpenSSH_9.2\r\n", None),
    ],
    ids=["503", "502", "429", "no answer", "a tunnel to nowhere", "another protocol"],
)
async def test_a_proxy_that_fails_is_tried_again_and_gives_no_hint(url, answer, code):
    class Enough(Exception):
        pass

    def judge(wait):
        watch.waits.append(wait)
        if len(watch.waits) == 2:
            raise Enough

    watch = Watch()
    async with answering(answer) as port:
        with pytest.raises(Enough):
            await anext(watch.connections(url, proxy=f"http://127.0.0.1:{port}", on_wait=judge))
    assert watch.told == [(1.0, 1, code), (2.0, 2, code)]
    assert [wait.ticket for wait in watch.waits] == ["", ""]


@pytest.mark.parametrize("status", [403, 407])
async def test_a_proxy_that_forbids_it_ends_the_iteration(status):
    async with answering(http(status)) as port:
        with pytest.raises(InvalidProxyStatus):
            await anext(Watch().connections("ws://server.invalid/", proxy=f"http://127.0.0.1:{port}"))
