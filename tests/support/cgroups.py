"""Control groups of the kernel's, for workers whose memory it limits."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ControlGroup:
    """One that exists."""

    folder: Path

    @property
    def launcher(self) -> list[str]:
        """A command that puts the rest of its command line into the group."""
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh"]

    def cached(self) -> int:
        """Bytes of files that the kernel keeps for the group."""
        stat = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        return int(stat["active_file"]) + int(stat["inactive_file"])


@contextmanager
def control_group(name: str, limit: int) -> Iterator[ControlGroup]:
    """A group of so many bytes of memory; ``OSError`` where none can be made."""
    folder, file, swap = Path("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes", "memory.swappiness"
    if not folder.parent.exists():
        folder, file, swap = Path("/sys/fs/cgroup", name), "memory.max", "memory.swap.max"
    folder.mkdir()
    try:
        (folder / file).write_text(str(limit))
        with suppress(OSError):
            (folder / swap).write_text("0")
        yield ControlGroup(folder)
    finally:
        folder.rmdir()
