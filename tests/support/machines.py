"""Hosts for the tests: network namespaces with addresses and host names of their own.

Where the machine allows none, as many containers do not, they are further loopback addresses under its own name.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from channels_admission.runtime.identity import host

NUMBERS = itertools.count(1)
RENAME = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
"""Runs the rest of a command line under another host name; in a namespace of its own."""
TWO_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Machine:
    """One host."""

    name: str
    """What its workers take for the name of their host."""
    address: str
    """Where its workers listen."""
    gateway: str
    """This process's own address on the way there."""
    launcher: tuple[str, ...] = ()
    """The beginning of a command line that runs the rest of it there."""


@contextmanager
def machines(count: int) -> Iterator[Sequence[Machine]]:
    with ExitStack() as stack:
        if has_namespaces():
            yield [stack.enter_context(_namespace(number)) for number in range(1, count + 1)]
        else:
            yield [Machine(host(), f"127.0.77.{number}", "127.0.0.1") for number in range(1, count + 1)]


def has_namespaces() -> bool:
    """Whether this process may make network and host-name namespaces, tried in a child."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare"))):
        return False
    probe = f"probe{os.getpid()}"
    try:
        _ip("netns", "add", probe)
        try:
            _ip("netns", "exec", probe, "unshare", "--uts", sys.executable, "-c", RENAME, probe, "true")
            _ip("link", "add", f"{probe[:11]}a", "type", "veth", "peer", "name", f"{probe[:11]}b")
            _ip("link", "del", f"{probe[:11]}a")
        finally:
            _ip("netns", "del", probe)
    except subprocess.CalledProcessError:
        return False
    return True


@contextmanager
def _namespace(number: int) -> Iterator[Machine]:
    place = next(NUMBERS)
    name, label = f"web-{number}", f"a{os.getpid() % TWO_BYTES}-{place}"
    # Of one process's own, as far as the numbers of processes allow.
    network = f"10.{64 + os.getpid() % 64}.{(os.getpid() // 64 + place) % 256}"
    ours, theirs = f"{network}.1", f"{network}.2"
    _ip("netns", "add", label)
    try:
        _ip("link", "add", f"{label}o", "type", "veth", "peer", "name", "eth0", "netns", label)
        _ip("addr", "add", f"{ours}/24", "dev", f"{label}o")
        _ip("link", "set", f"{label}o", "up")
        for command in (("addr", "add", f"{theirs}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                        ("link", "set", "lo", "up"), ("route", "add", "default", "via", ours)):  # fmt: skip
            _ip("-n", label, *command)
        launcher = ("ip", "netns", "exec", label, "unshare", "--uts", sys.executable, "-c", RENAME, name)
        yield Machine(name, theirs, ours, launcher)
    finally:
        _ip("netns", "del", label)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
