"""Receivers of signals, connected for as long as a test needs them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.dispatch import Signal


@contextmanager
def listening(*pairs: tuple[Signal, Callable[..., object]]) -> Iterator[None]:
    """Connect each of these pairs of a signal and a receiver."""
    for signal, receiver in pairs:
        signal.connect(receiver, weak=False)
    try:
        yield
    finally:
        for signal, receiver in pairs:
            signal.disconnect(receiver)
