"""A page of the test project in a real browser, with an AdmissionSocket that is watched."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from websockets.sync.client import connect as connect_sync

from demo.consumers import PID
from support.clients import TIMEOUT

WATCH = """
globalThis.url = location.origin.replace("http", "ws") + "/ws/echo/";
globalThis.watch = (options = {}, protocols = []) => {
  const made = [];
  const urls = [];
  class Watched extends WebSocket {
    constructor(...args) {
      super(...args);
      made.push(Date.now());
      urls.push(this.url);
    }
  }
  const socket = new AdmissionSocket(url, protocols, { ...options, platform: { WebSocket: Watched } });
  const seen = [];
  const waits = [];
  socket.onopen = () => seen.push("open");
  socket.onmessage = ({ data }) => seen.push(data);
  socket.onclose = ({ code }) => seen.push(code);
  socket.onwait = () => waits.push({ ...socket.waiting });
  return { socket, made, urls, seen, waits };
};
"""
"""Defines ``watch``: an AdmissionSocket with the times and the URLs of its attempts, its events, and its waits."""


@contextmanager
def holder(origin: str) -> Iterator[None]:
    """A client that holds a slot."""
    url = origin.replace("http", "ws", 1) + "/ws/echo/"
    with connect_sync(url, origin=origin, open_timeout=TIMEOUT, compression=None, proxy=None) as client:
        client.send(PID)
        client.recv(TIMEOUT)
        yield


def eventually(browser, expression: str, seconds: float = 10.0) -> None:
    """Wait until the page finds ``expression`` true; fails with what was seen."""
    deadline = time.monotonic() + seconds
    while not browser.execute_script(f"return Boolean({expression})"):
        if time.monotonic() > deadline:
            seen = browser.execute_script("return globalThis.watched && [watched.seen, watched.waits, watched.made]")
            raise AssertionError(f"still not true after {seconds} s: {expression}; seen {seen}")
        time.sleep(0.02)


def load(browser, origin: str, query: str = "tag") -> None:
    browser.get(f"{origin}/blank/?{query}")
    eventually(browser, "globalThis.AdmissionSocket")
    browser.execute_script(WATCH)


def echoes(browser, word: str) -> None:
    browser.execute_script("watched.socket.send(arguments[0])", word)
    eventually(browser, f"watched.seen.includes('{word}')")
