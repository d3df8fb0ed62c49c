"""How a channel layer may end a consumer: by a channel that is full, or by a failure of its own, such as its Redis."""

import asyncio
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType

from channels.exceptions import ChannelFull
from channels.layers import channel_layers
from channels.utils import await_many_dispatch

from ..core.counters import CHANNELS_FULL, LAYER_FAILED

BUILT_IN = "builtins"
"""The module of exceptions that tell of a caller's mistake, such as a group name that is not valid."""


def ended_by_layer() -> str | None:
    """The counter of the exception that is handled, raised by a consumer; None unless its layer raised it."""
    error = sys.exc_info()[1]
    if isinstance(error, ChannelFull):
        return CHANNELS_FULL
    if error is None or (type(error).__module__ == BUILT_IN and not isinstance(error, OSError)):
        return None
    modules = {sys.modules.get(type(layer).__module__) for layer in channel_layers.backends.values()}
    files = {getattr(module, "__file__", None) for module in modules}
    return LAYER_FAILED if any(file in files for file in _files(error)) else None


def _files(error: BaseException) -> Iterator[str]:
    """The files of the functions that the error has passed through."""
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_filename
        if traceback.tb_frame.f_code is await_many_dispatch.__code__:
            yield from _task_files(traceback.tb_frame, error)
        traceback = traceback.tb_next


def _task_files(frame: FrameType, error: BaseException) -> Iterator[str]:
    """The file of the consumer's task that ended with the error, its traceback lost as Channels awaits it twice."""
    for task in frame.f_locals.get("tasks", ()):
        if isinstance(task, asyncio.Task) and task.done() and not task.cancelled() and task.exception() is error:
            code = getattr(task.get_coro(), "cr_code", None)
            yield getattr(code, "co_filename", "")
