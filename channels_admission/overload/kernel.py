"""Files of the Linux kernel about this process and its control groups."""

from collections.abc import Iterator
from pathlib import Path

from ..runtime.descriptors import is_exhausted

ROOT = Path("/")


def control_groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The control groups of this process, from the innermost outwards: folder, and whether it is version 2."""
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
    """The text of a file, empty if it cannot be read; :exc:`OSError` only if no descriptor is free."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode("ascii", "replace").strip()
    except OSError as error:
        if is_exhausted(error):
            raise
        return ""


def number(path: Path) -> int | None:
    found = text(path)
    return int(found) if found.isdecimal() else None


def statistics(path: Path) -> dict[str, int]:
    """The numbers in a file of lines with a name, a number and perhaps a unit."""
    fields = (line.split() for line in text(path).splitlines())
    return {field[0].rstrip(":"): int(field[1]) for field in fields if len(field) > 1 and field[1].isdecimal()}
