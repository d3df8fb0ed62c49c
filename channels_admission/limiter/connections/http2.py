"""Workaround for hypercorn after the package has closed a stream of HTTP/2.

hypercorn forgets a stream when its application returns. If the client answers the close after that, hypercorn ends the
whole connection, with all other WebSockets of that browser.
"""

import asyncio

from .asgi import Receive, leaves_within

HTTP_2 = "2"
"""The ``http_version`` of HTTP/2 in a scope."""
ANSWER_TIMEOUT = 2.0
"""Seconds for a client to answer a close."""


async def answered(receive: Receive) -> None:
    """Wait for the client's answer to a close, for at most :data:`ANSWER_TIMEOUT` seconds; drop its other messages."""
    await leaves_within(asyncio.timeout(ANSWER_TIMEOUT), receive)
