"""An admitted connection, which the package can close, and whose end it notices even if the application does not.

This code runs for every message of every connection, and its attributes exist as long as the connection.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ...runtime.servers import abort
from .ahead import Ahead
from .asgi import NO_CODE, RESTART
from .slot import Slot

logger = logging.getLogger("channels_admission")

GRACE = 10.0
"""Seconds after which an application that does not receive is cancelled."""
CLOSING = 2.0
"""Seconds for the server to send a close, since a client that does not read may block it forever."""
ABANDONED = 0.5
"""Seconds after :data:`CLOSING` when the slot of a cancelled application is released, even if it still runs."""
BUSY: Any = object()
"""Stands for the listener while an application does not receive."""
OPEN, CLOSED, LEFT = range(3)
"""The states: open, closed by this side, closed by the client."""


class End:
    """The closing of a connection by the package, in an object of its own since few connections need it."""

    messages: Sequence[Any] | None = None
    """The messages that close the connection, once it is closing; the last one has the close code."""
    alarm: asyncio.TimerHandle | None = None
    cancels = 0
    """How often the package has cancelled the task."""


class Connection:
    """One connection between its server and its application. Belongs to the task that created it."""

    __slots__ = ("_end", "_listener", "_receive", "_send", "_state", "_task", "slot", "unanswered")

    def __init__(self, receive: Any, send: Any, slot: Slot | None = None) -> None:
        self._receive = receive
        self._send = send
        self._state: Any = OPEN
        """OPEN, CLOSED, LEFT, or the future that sends the closing messages."""
        self.slot = slot
        self._end: End | None = None
        self._listener: asyncio.Task[Any] | None = None
        """The task that receives, until it is interrupted."""
        self._task = asyncio.current_task()
        self.unanswered: tuple[float, Any] | None = None
        """Until the application answers the handshake: its deadline, in the loop's time, and the scope."""

    @property
    def is_ending(self) -> bool:
        """Whether the package is closing the connection."""
        return self._end is not None and self._end.messages is not None

    @property
    def is_open(self) -> bool:
        """Whether neither side has closed the connection, as far as is known here."""
        return self._state is OPEN

    @property
    def real_send(self) -> Any:
        """The server's ``send``, named as Channels names it, for :func:`~.runtime.servers.abort`."""
        return self._send

    @property
    def is_closed_by_us(self) -> bool:
        """Whether the package or the application has closed the connection."""
        return self._state is CLOSED or isinstance(self._state, asyncio.Future)

    def end(self, code: int, reason: str) -> None:
        """Close the connection, once; ``reason`` has at most 123 bytes.

        The application receives ``websocket.disconnect``, as if the client had left. If it does not receive within
        :data:`GRACE` seconds it is cancelled. The slot is released within ``GRACE + CLOSING + ABANDONED`` seconds, even
        if the server's ``send`` never returns and the application ignores its cancellation.
        """
        if not self.is_ending:
            self._ending.messages = ({"type": "websocket.close", "code": code, "reason": reason},)
            self.end_in(GRACE)
            self._interrupt()

    def refuse(self, messages: Sequence[Any]) -> None:
        """Refuse the connection with ``messages``, once, because its application has not answered the handshake.

        The messages are sent at once. If the application receives, it gets ``websocket.disconnect``; otherwise it is
        cancelled.
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
        """Cancel the application after ``seconds``, if it still runs."""
        self._set_alarm(seconds, self._cancel)

    async def receive(self) -> Any:
        # Like asyncio.timeout, but cheaper per message: end() cancels the task that receives.
        self._listener = listener = asyncio.current_task()
        cancelling = listener.cancelling()  # type: ignore[union-attr]
        if self._end is not None and self._end.messages is not None:  # after a message that the server has ready
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
                self._note_end(is_told=True)
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
        """Whether only the package has cancelled the task; if so, send the close. Call it after the CancelledError.

        Returns within :data:`CLOSING` seconds, or is cancelled again.
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
        """Call ``call`` with the connection and ``arguments`` after ``delay`` seconds, unless the application has
        returned."""
        self._set_alarm(delay, self._ring, call, arguments)

    def leave(self) -> None:
        """Note that the application has returned, so that its task is not cancelled any more."""
        self._task = None
        if self._end is not None and self._end.alarm is not None:
            self._end.alarm.cancel()
            self._end.alarm = None
        if isinstance(ahead := getattr(self._receive, "__self__", None), Ahead):
            ahead.stop()

    async def hang_up(self) -> Any:
        """Send the close of :meth:`end` to the client; return the message for the application.

        Returns within :data:`CLOSING` seconds. If the close cannot be sent in that time, the transport is aborted.
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
        return {"type": "websocket.disconnect", "code": end.messages[-1].get("code", NO_CODE)}

    @property
    def _ending(self) -> End:
        """The :class:`End`, created when first needed."""
        if self._end is None:
            self._end = End()
        return self._end

    def _close(self) -> None:
        """Start to send the closing messages, in a task of their own, since a send may ignore its cancellation."""
        if self._state is OPEN and self._end is not None and self._end.messages is not None:
            self._state = asyncio.ensure_future(self._send_all(self._end.messages))

    async def _send_all(self, messages: Sequence[Any]) -> None:
        for message in messages:
            await self._send(message)

    def _give_up(self, closing: asyncio.Future[Any]) -> None:
        """Abort the transport unless the close has been sent."""
        if closing.done() and not closing.cancelled():
            if (fault := closing.exception()) is None:
                return
            logger.debug("A close could not be sent.", exc_info=fault)
        else:
            closing.add_done_callback(lambda over: over.cancelled() or over.exception())
            closing.cancel()
        abort(self._send)

    # Noticing the end while the application does not receive

    @property
    def _is_listening(self) -> bool:
        return self._listener is not None and self._listener is not BUSY

    def is_busy(self) -> bool:
        """Whether the application has not received since the last call."""
        if self.is_ending or self._state is LEFT:  # an interrupted listener may not have run yet
            return False
        if self._listener is None:
            self._listener = BUSY
            return False
        return self._listener is BUSY

    def listen_ahead(self) -> None:
        """Read ahead for an application that does not receive, to notice the end of the connection."""
        ahead = getattr(self._receive, "__self__", None)
        if not isinstance(ahead, Ahead):
            ahead = Ahead(self._receive, self._note_end, self._restore_receive)
            self._receive = ahead.receive
        ahead.read()

    def _restore_receive(self, receive: Any) -> None:
        self._receive = receive

    def _note_end(self, *, is_told: bool = False) -> None:
        """Limit the time of the application once the client has left; ``is_told``: the application knows of it."""
        end = self._end = self._end or End()
        if self._state is LEFT or end.messages is not None:
            return
        limiter = None if self.slot is None else self.slot.limiter
        grace = None if limiter is None else limiter.pool.disconnect_grace
        if self.unanswered is not None and not is_told and limiter is not None:
            grace = 0.0  # no client is left for the answer to the handshake
        if is_told or grace is not None:  # else only an error of the server's send may end the application
            self._state = LEFT
        if limiter is not None and grace is not None:
            if end.alarm is not None:
                end.alarm.cancel()
            end.alarm = asyncio.get_running_loop().call_later(grace, limiter.end_outlived, self)

    def _set_alarm(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        """Set the timer of the connection, instead of the one before."""
        end = self._ending
        if end.alarm is not None:
            end.alarm.cancel()
        end.alarm = asyncio.get_running_loop().call_later(delay, call, *arguments)

    def _ring(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self._end is not None and not self._end.cancels and not self.is_ending:
            self._end = None  # saves memory while the connection is open
        call(self, *arguments)

    def _interrupt(self) -> None:
        if self._is_listening:
            listener, self._listener = self._listener, None
            listener.cancel()  # type: ignore[union-attr]

    def let_go(self) -> None:
        """Release the slot, even if the application still runs."""
        if self.slot is not None and self.slot.limiter is not None:
            self.slot.limiter.forget(self)

    def _cancel(self) -> None:
        if self._task is not None:
            self._ending.cancels += 1
            self._task.cancel()
            self._set_alarm(CLOSING + ABANDONED, self._abandon)

    def _abandon(self) -> None:
        """Take the slot and the socket of a task that has ignored its cancellation, and cancel it again."""
        self._ending.alarm = None
        self.let_go()
        abort(self._send)
        if self._task is not None:
            self._ending.cancels += 1
            self._task.cancel()

    def _is_our_cancellation(self) -> bool:
        """Undo the package's cancellations of the task; return whether there were any, and no others."""
        end = self._end or End()
        ours, end.cancels = end.cancels, 0
        left = 0
        for _ in range(ours if self._task is not None else 0):
            left = self._task.uncancel()  # type: ignore[union-attr]
        return bool(ours) and not left
