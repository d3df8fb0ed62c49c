"""The ticket of a handshake, which no application sees."""

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.testing import WebsocketCommunicator

from channels_admission import conf
from channels_admission.consumers import AdmissionMixin
from channels_admission.core.herd.tickets import Signer, Ticket
from channels_admission.limiter.connections.slot import Held, HeldWithTicket
from channels_admission.limiter.connections.tickets import take
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware

ONE, TWO = "A" * 24, "b-_9" * 6
HEADERS = [(b"host", b"here"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]


@pytest.mark.parametrize(
    ("query", "left", "ticket"),
    [
        (b"", b"", ""),
        (b"a=1&b=%20&&c=", b"a=1&b=%20&&c=", ""),
        (f"admission_ticket={ONE}", b"", ONE),
        (f"a=1&admission_ticket={ONE}&b=%2B+&&c", b"a=1&b=%2B+&&c", ONE),
        (f"admission_ticket={ONE}&a&admission_ticket={TWO}", b"a", ONE),
        (f"admission_ticket=&a=1&admission_ticket={TWO}", b"a=1", ""),
        (f"admission_ticket={ONE}!&a=1", b"a=1", ""),
        (f"admission_ticket={ONE}=&a=1", b"a=1", ""),
        (b"admission_ticket=\xff\xfe&a=1", b"a=1", ""),
        (b"admission_ticket&a=1", b"a=1", ""),
        (f"next=admission_ticket&my_admission_ticket={ONE}", None, ""),
        (f"admission_tickets={ONE}", None, ""),
    ],
)
def test_the_parameter_is_taken_and_each_other_byte_is_left(query, left, ticket):
    query = query if isinstance(query, bytes) else query.encode()
    scope = {"type": "websocket", "query_string": query, "headers": HEADERS}
    assert take(scope) == ticket
    assert scope == {"type": "websocket", "query_string": query if left is None else left, "headers": HEADERS}
    assert scope["headers"] is HEADERS


def test_the_header_is_taken_from_a_list_of_its_own():
    given = [HEADERS[0], (b"admission-ticket", ONE.encode()), *HEADERS[1:], (b"admission-ticket", TWO.encode())]
    scope = {"query_string": b"a", "headers": given}
    assert take(scope) == ONE
    assert scope == {"query_string": b"a", "headers": HEADERS}
    assert len(given) == 5


def test_the_parameter_goes_before_the_header_and_both_are_removed():
    scope = {"query_string": f"admission_ticket={ONE}".encode(), "headers": [(b"admission-ticket", TWO.encode())]}
    assert take(scope) == ONE
    assert scope == {"query_string": b"", "headers": []}


@pytest.mark.parametrize("scope", [{}, {"query_string": None, "headers": None}, {"headers": iter(())}])
def test_a_scope_that_lacks_them_has_none(scope):
    assert take(scope) == ""


def test_behind_another_pool_it_is_what_that_one_has_passed_on():
    taken = f"admission_ticket={ONE}".encode()
    assert take({"admission": HeldWithTicket(None, (), TWO), "query_string": taken}) == TWO
    assert take({"admission": Held(None), "query_string": taken}) == ""


# Both faces

SEEN = []


def scopes_of(base):
    class Recorder(base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

        def websocket_connect(self, message):
            SEEN.append(dict(self.scope))
            return super().websocket_connect(message)

    return Recorder


FACES = {
    "the middleware": AdmissionMiddleware(scopes_of(AsyncWebsocketConsumer).as_asgi()),
    "the mixin": type("Mixed", (AdmissionMixin, scopes_of(AsyncWebsocketConsumer)), {}).as_asgi(),
    "a sync consumer": AdmissionMiddleware(scopes_of(WebsocketConsumer).as_asgi()),
    "a sync mixin": type("Mixed", (AdmissionMixin, scopes_of(WebsocketConsumer)), {}).as_asgi(),
    "both": AdmissionMiddleware(type("Mixed", (AdmissionMixin, scopes_of(AsyncWebsocketConsumer)), {}).as_asgi()),
}


def shown_by(ticket, application, path="/ws/?room=1"):
    headers = [(b"origin", b"x"), (b"admission-ticket", ticket.encode())]
    return WebsocketCommunicator(application, f"{path}&admission_ticket={ticket}", headers=headers)


@pytest.fixture
async def ticket_of(admission):
    """``ticket_of(pool)``: one that is due."""
    admission(POOLS={"chat": {}})

    def make(pool: str = "default", *, late: float = 0.0) -> str:
        time = limiter_of(pool).places.clock.time() - late
        return Signer(pool, conf.ticket_secrets()).write(Ticket(time, time, 7))

    yield make
    await close_limiters()


@pytest.mark.parametrize("face", FACES)
async def test_no_application_sees_a_ticket(ticket_of, face):
    SEEN.clear()
    client = shown_by(ticket_of(), FACES[face])
    assert await client.connect() == (True, None)
    (scope,) = SEEN
    assert (scope["query_string"], scope["headers"]) == (b"room=1", [(b"origin", b"x")])
    assert type(scope["admission"]) is Held
    await client.disconnect()
    assert limiter_of("default").state.counters["redeemed"] == 1


class Chat(AdmissionMixin, scopes_of(AsyncWebsocketConsumer)):
    admission_pool = "chat"


@pytest.mark.parametrize(("pool", "redeemed"), [("default", (1, 0)), ("chat", (0, 1))])
async def test_of_two_pools_each_takes_its_own_ticket(ticket_of, pool, redeemed):
    SEEN.clear()
    client = shown_by(ticket_of(pool), AdmissionMiddleware(Chat.as_asgi()))
    assert await client.connect() == (True, None)
    assert tuple(limiter_of(each).state.counters["redeemed"] for each in ("default", "chat")) == redeemed
    (scope,) = SEEN
    assert (scope["query_string"], scope["headers"]) == (b"room=1", [(b"origin", b"x")])
    assert (type(scope["admission"]), set(scope["admission"])) == (Held, {"default", "chat"})
    await client.disconnect()


async def test_a_ticket_that_is_late_is_none_and_counted(ticket_of):
    client = shown_by(ticket_of(late=1.6), FACES["the middleware"])
    assert await client.connect() == (True, None)
    await client.disconnect()
    counters = limiter_of("default").state.counters
    assert (counters["redeemed"], counters["missed"]) == (0, 1)


async def test_switched_off_it_is_left_where_it_is(admission):
    admission(ENABLED=False)
    SEEN.clear()
    client = shown_by(ONE, FACES["the middleware"])
    assert await client.connect() == (True, None)
    assert SEEN[0]["query_string"] == f"room=1&admission_ticket={ONE}".encode()
    await client.disconnect()
