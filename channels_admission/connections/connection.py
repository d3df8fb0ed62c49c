"""An admitted connection: the package can end it, and hears its end for an application that does not listen.

Whatever stands here is paid for every message of every connection, or kept for as long as one is open.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..runtime.servers import abort
from .ahead import Ahead
from .slot import Slot

logger = logging.getLogger("channels_admission")

RESTART = 1012
"""Service Restart: come back, to another worker perhaps (IANA's registry of WebSocket close codes)."""
REPLACED = 4409
"""A newer connection took the place of this one under a quota. Clients of ours do not come back by themselves after it:
two pages of one user would close each other's connections for ever."""
UNSAID = 1006
"""What an application hears where the client is told no code: it gets an HTTP response."""
GRACE = 10.0
"""Seconds that an application which does not listen has left before it is cancelled."""
CLOSING = 2.0
"""Seconds that a server has to send a close: a client that does not read can hold it up for ever."""
ABANDONED = 0.5
"""Seconds after :data:`CLOSING` when the slot of an application that was cancelled is free, whatever it does."""
BUSY: Any = object()
"""Stands for the listener of an application that did not listen when it was last looked at."""
OPEN, CLOSED, LEFT = range(3)
"""Which side has closed it: none, ours, the client."""


class End:
    """How a connection comes to its end from our side; few have one, and it would be paid for in each."""

    messages: Sequence[Any] | None = None
    """What ends it, once it is ending; the last one has the code that the application hears."""
    alarm: asyncio.TimerHandle | None = None
    cancels = 0
    """How often its task was cancelled from our side."""


class Connection:
    """One connection between its server and its application. Belongs to the task that made it."""

    __slots__ = (
        "_end", "_listener", "_receive", "_send", "_state", "_task", "slot", "unanswered",
    )  # fmt: skip

    def __init__(self, receive: Any, send: Any, slot: Slot | None = None) -> None:
        self._receive = receive
        self._send = send
        self._state: Any = OPEN
        """That, or who has closed it: CLOSED, LEFT, or the future that sends what ends it."""
        self.slot = slot
        self._end: End | None = None
        self._listener: asyncio.Task[Any] | None = None
        """The task that waits for a message, until it is interrupted."""
        self._task = asyncio.current_task()
        self.unanswered: tuple[float, Any] | None = None
        """Until when the application must answer the handshake, in the loop's time, and its scope, until it has."""

    @property
    def is_ending(self) -> bool:
        """Whether it was ended from our side."""
        return self._end is not None and self._end.messages is not None

    @property
    def real_send(self) -> Any:
        """The ``send`` beneath it, named as Channels names it, for what looks for the transport."""
        return self._send

    @property
    def is_closed_by_us(self) -> bool:
        """Whether the close came from our side, the application's included."""
        return self._state is CLOSED or isinstance(self._state, asyncio.Future)

    def end(self, code: int, reason: str) -> None:
        """Close it, once; ``reason`` has at most 123 bytes.

        The application hears ``websocket.disconnect`` when it listens next, as if the client had
        left; one that does not listen within :data:`GRACE` is cancelled. The slot is released
        within ``GRACE + CLOSING + ABANDONED`` seconds, even if the server's ``send`` never returns
        and the application ignores its cancellation.
        """
        if not self.is_ending:
            self._ending.messages = ({"type": "websocket.close", "code": code, "reason": reason},)
            self.end_in(GRACE)
            self._interrupt()

    def refuse(self, messages: Sequence[Any]) -> None:
        """Refuse it after all with ``messages``, once, since its application has not answered the handshake.

        They are sent at once. An application that listens hears ``websocket.disconnect``; another one is cancelled.
        """
        if not self.is_ending:
            self._ending.messages = messages
            self._close()
            if self._is_listening:
                self.end_in(GRACE)
                self._interrupt()
            else:
                self._cancel()

    def end_in(self, seconds: float) -> None:
        """Cancel its application after so many seconds, if it runs then."""
        self._set_alarm(seconds, self._cancel)

    async def receive(self) -> Any:
        # What asyncio.timeout does, without its cost for each message: end() cancels whoever listens.
        self._listener = listener = asyncio.current_task()
        cancelling = listener.cancelling()  # type: ignore[union-attr]
        if self._end is not None and self._end.messages is not None:  # what the server has at hand comes first
            asyncio.get_running_loop().call_soon(self._interrupt)
        try:
            event = await self._receive()
        except asyncio.CancelledError:
            if self._listener is not None or listener.uncancel() > cancelling:  # type: ignore[union-attr]
                raise
        else:
            if self._listener is None:
                listener.uncancel()  # type: ignore[union-attr]
            if event["type"] == "websocket.disconnect":
                self._hear_end(is_told=True)
            return event
        finally:
            self._listener = None
        return await self.hang_up()

    async def send(self, message: Any) -> None:
        self.unanswered = None
        if self._state is OPEN:
            if message["type"] == "websocket.close":
                self._state = CLOSED
            await self._send(message)

    async def is_over(self) -> bool:
        """Whether the package alone cancelled its task; then send the close. Call it where the cancellation is caught.

        Returns within :data:`CLOSING`, or is cancelled again.
        """
        if not self._is_our_cancellation():
            return False
        try:
            await self.hang_up()
        except asyncio.CancelledError:
            if not self._is_our_cancellation():
                raise
        return True

    def alarm(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have ``call`` made with it and ``arguments`` after ``delay`` seconds if its application runs then, once."""
        self._set_alarm(delay, self._ring, call, arguments)

    def leave(self) -> None:
        """The application has returned; nothing is cancelled from now on."""
        self._task = None
        if self._end is not None and self._end.alarm is not None:
            self._end.alarm.cancel()
            self._end.alarm = None
        if isinstance(ahead := getattr(self._receive, "__self__", None), Ahead):
            ahead.stop()

    async def hang_up(self) -> Any:
        """Close it towards the client as :meth:`end` was told; gives what the application hears.

        Returns within :data:`CLOSING`. Where the close cannot be sent in that time, the transport is aborted.
        """
        end = self._ending
        if end.messages is None:
            end.messages = ({"type": "websocket.close", "code": RESTART, "reason": ""},)
        self._close()
        if isinstance(self._state, asyncio.Future):
            try:
                await asyncio.wait({self._state}, timeout=CLOSING)
            finally:
                self._give_up(self._state)
        return {"type": "websocket.disconnect", "code": end.messages[-1].get("code", UNSAID)}

    @property
    def _ending(self) -> End:
        """How it ends, for what is to be noted of that."""
        if self._end is None:
            self._end = End()
        return self._end

    def _close(self) -> None:
        """Begin to send what ends it, in a task of its own, since a send may ignore its cancellation."""
        if self._state is OPEN and self._end is not None and self._end.messages is not None:
            self._state = asyncio.ensure_future(self._say(self._end.messages))

    async def _say(self, messages: Sequence[Any]) -> None:
        for message in messages:
            await self._send(message)

    def _give_up(self, closing: asyncio.Future[Any]) -> None:
        """Abort the transport, unless the close has been sent."""
        if closing.done() and not closing.cancelled():
            if (fault := closing.exception()) is None:
                return
            logger.debug("A close could not be sent.", exc_info=fault)
        else:
            closing.add_done_callback(lambda over: over.cancelled() or over.exception())
            closing.cancel()
        abort(self._send)

    # What is heard while the application does not listen

    @property
    def _is_listening(self) -> bool:
        return self._listener is not None and self._listener is not BUSY

    def is_busy(self) -> bool:
        """Whether its application has not listened since this was asked last."""
        if self.is_ending or self._state is LEFT:  # an interrupted listener may not know it yet
            return False
        if self._listener is None:
            self._listener = BUSY
            return False
        return self._listener is BUSY

    def listen_ahead(self) -> None:
        """Read ahead, to hear the end, for an application that does not listen."""
        ahead = getattr(self._receive, "__self__", None)
        if not isinstance(ahead, Ahead):
            ahead = Ahead(self._receive, self._hear_end, self._listen_again)
            self._receive = ahead.receive
        ahead.read()

    def _listen_again(self, receive: Any) -> None:
        self._receive = receive

    def _hear_end(self, *, is_told: bool = False) -> None:
        """The client has left: bound what its application may still do, once. ``is_told``: the application knows it."""
        end = self._end = self._end or End()
        if self._state is LEFT or end.messages is not None:
            return
        limiter = None if self.slot is None else self.slot.limiter
        grace = None if limiter is None else limiter.pool.disconnect_grace
        if self.unanswered is not None and not is_told and limiter is not None:
            grace = 0.0  # nobody is there for the answer that it works on
        if is_told or grace is not None:  # else an error of the server's send may be all that ends it
            self._state = LEFT
        if limiter is not None and grace is not None:
            if end.alarm is not None:
                end.alarm.cancel()
            end.alarm = asyncio.get_running_loop().call_later(grace, limiter.end_outlived, self)

    def _set_alarm(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        """One timer at a time: the one before is of no more use."""
        end = self._ending
        if end.alarm is not None:
            end.alarm.cancel()
        end.alarm = asyncio.get_running_loop().call_later(delay, call, *arguments)

    def _ring(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self._end is not None and not self._end.cancels and not self.is_ending:
            self._end = None  # or it would be kept for as long as the connection is open
        call(self, *arguments)

    def _interrupt(self) -> None:
        if self._is_listening:
            listener, self._listener = self._listener, None
            listener.cancel()  # type: ignore[union-attr]

    def let_go(self) -> None:
        """Release the slot, whether or not the application runs on."""
        if self.slot is not None and self.slot.limiter is not None:
            self.slot.limiter.forget(self)

    def _cancel(self) -> None:
        if self._task is not None:
            self._ending.cancels += 1
            self._task.cancel()
            self._set_alarm(CLOSING + ABANDONED, self._abandon)

    def _abandon(self) -> None:
        """The task goes on though it was cancelled: take its slot and its socket, and cancel it again."""
        self._ending.alarm = None
        self.let_go()
        abort(self._send)
        if self._task is not None:
            self._ending.cancels += 1
            self._task.cancel()

    def _is_our_cancellation(self) -> bool:
        """Take back the cancellations that are ours, and say whether there was one, and no other."""
        end = self._end or End()
        ours, end.cancels = end.cancels, 0
        left = 0
        for _ in range(ours if self._task is not None else 0):
            left = self._task.uncancel()  # type: ignore[union-attr]
        return bool(ours) and not left
