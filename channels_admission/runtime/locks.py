"""Lock files by which the workers of containers see that the process of another one has ended.

Each process locks a file of its own in a directory that outlives it, such as a volume of the container. The kernel
drops the lock when the process ends, however it ends, and processes in other namespaces see that. No process can take a
living one for gone, whatever directory they share.
"""

import errno
import logging
import os
import re
import threading
import time
from pathlib import Path

from .descriptors import spares

logger = logging.getLogger("channels_admission")

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KEPT = 86_400.0
"""Seconds for which the file of a process that has ended is kept for others; longer than any lease."""
PROCESS = re.compile(r"[A-Za-z0-9._-]{1,32}:\d{1,10}:-?\d{1,18}")
"""The name of a file: host, process id, and when the process started, in hundredths of a second after boot."""


class Locks:
    """A directory of lock files, in which this ``process`` keeps one. ``OSError`` if it cannot."""

    def __init__(self, folder: str, process: str) -> None:
        import fcntl  # not on Windows

        self._fcntl = fcntl
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.stat(self._folder)
            self.directory = f"{BOOT_ID.read_text().strip()} {found.st_dev} {found.st_ino}"
            """The same in every namespace of this kernel, and in no other, which would not see the locks."""
            self._lock = self._take(process)
        except BaseException:
            os.close(self._folder)
            raise
        self._tidy()

    def _take(self, process: str) -> int:
        """A locked file of this ``process``, named only then, so that no other process finds it without its lock."""
        lock = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644, dir_fd=self._folder)
        try:
            self._fcntl.flock(lock, self._fcntl.LOCK_EX | self._fcntl.LOCK_NB)
            os.utime(lock, (0, 0))
            os.link(f"/proc/self/fd/{lock}", process, dst_dir_fd=self._folder)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _tidy(self) -> None:
        """Remove the files of processes that ended long ago. The time of a file is 0, or when it was found unlocked."""
        now = time.time()
        for name in os.listdir(self._folder):
            try:
                found = os.stat(name, dir_fd=self._folder).st_mtime
                if (found and now - found < KEPT) or not self.is_gone(name):
                    continue
                if found:
                    os.unlink(name, dir_fd=self._folder)
                else:
                    os.utime(name, (now, now), dir_fd=self._folder)
            except OSError:  # another process was faster, or owns it
                continue

    def is_gone(self, process: str) -> bool:
        """Whether that process had a lock here, and has ended. ``OSError`` if that cannot be found out."""
        if not PROCESS.fullmatch(process):
            return False
        try:
            file = os.open(process, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)
        except FileNotFoundError:
            return False
        try:
            self._fcntl.flock(file, self._fcntl.LOCK_SH | self._fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        finally:
            os.close(file)
        return True

    def close(self) -> None:
        """Drop the lock: for others, the process has ended."""
        os.close(self._lock)
        os.close(self._folder)


_open: dict[str, Locks] = {}
"""The locks of this process, by the path of their directory."""
_opening = threading.Lock()


def locks_in(folder: str | None, process: str) -> Locks | None:
    """The locks in ``folder``, the same for all event loops of the process; None, with a warning, if it is no use."""
    if folder is None:
        return None
    with _opening:
        if folder not in _open:
            try:
                _open[folder] = spares.lend(Locks, folder, process)
            except (ImportError, AttributeError, OSError) as error:
                logger.warning(
                    "No lock file in LOCK_DIR %r (%s): if this worker is killed, its slots may stay for the lease.",
                    folder, error,
                )  # fmt: skip
        return _open.get(folder)


def _forget() -> None:
    """Close in a forked child what its parent has locked: the lock would last as long as the child."""
    global _opening
    _opening = threading.Lock()
    for each in _open.values():
        each.close()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
