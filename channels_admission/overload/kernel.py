"""Files in which the kernel tells of this process and of the control groups around it."""

from collections.abc import Iterator
from pathlib import Path

from ..runtime.reserve import is_exhausted

ROOT = Path("/")


def control_groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The control groups this process is in, from its own outwards: folder, and whether it is of version 2."""
    for line in text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = top / path.lstrip("/")
        while True:
            yield folder, not controllers
            if folder == top:
                break
            folder = folder.parent


def text(path: Path) -> str:
    """What stands in a file, nothing where there is none; :exc:`OSError` only where no file can be opened."""
    try:
        return path.read_text().strip()
    except OSError as error:
        if is_exhausted(error):
            raise
        return ""


def number(path: Path) -> int | None:
    told = text(path)
    return int(told) if told.isdecimal() else None


def statistics(path: Path) -> dict[str, int]:
    """The numbers in a file of the kernel's with a name and a number in each line, a unit left out."""
    fields = (line.split() for line in text(path).splitlines())
    return {field[0].rstrip(":"): int(field[1]) for field in fields if len(field) > 1 and field[1].isdecimal()}
