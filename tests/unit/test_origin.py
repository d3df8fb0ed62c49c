"""The guard in front of Channels' validator of origins."""

import pytest
from channels.security.websocket import OriginValidator

from channels_admission.middleware import ReadableOrigin

UNREADABLE = [b"http://[", b"http://[bad", b"http://host:99999", b"http://host:x"]
READABLE = [
    b"http://good.example",
    b"https://good.example:8443",
    b"http://\xe9\xff.example",
    b"null",
    b"",
    b"http://[::1]",
]


async def answer(application, *origins: bytes) -> list[str]:
    """What a handshake with these Origin headers is sent, by type; ``inner`` where it goes through."""
    told: list[str] = []

    async def inner(scope, receive, send):
        told.append("inner")

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        told.append(message["type"])

    headers = [(b"host", b"good.example"), *((b"origin", origin) for origin in origins)]
    scope = {"type": "websocket", "path": "/", "headers": headers}
    await application(inner)(scope, receive, send)
    return told


@pytest.mark.parametrize("origin", UNREADABLE)
async def test_an_origin_that_no_validator_reads_is_refused_in_front_of_it(origin):
    def validated(inner):
        return OriginValidator(inner, ["http://good.example"])

    with pytest.raises(ValueError, match=r"."):
        await answer(validated, origin)
    assert await answer(lambda inner: ReadableOrigin(validated(inner)), origin) == ["websocket.close"]


@pytest.mark.parametrize("origins", [[], *([origin] for origin in READABLE)])
async def test_every_other_one_is_the_validators(origins):
    assert await answer(ReadableOrigin, *origins) == ["inner"]


async def test_other_scopes_pass():
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    for kind in ("http", "lifespan"):
        await ReadableOrigin(inner)({"type": kind, "headers": [(b"origin", b"http://[")]}, None, None)
    assert seen == ["http", "lifespan"]


async def test_a_client_that_has_left_is_sent_nothing():
    async def receive():
        return {"type": "websocket.disconnect"}

    await ReadableOrigin(None)({"type": "websocket", "headers": [(b"origin", b"http://[")]}, receive, None)
