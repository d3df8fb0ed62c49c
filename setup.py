"""The long description: the README with whole addresses, since PyPI shows it without the files of the repository.

All else is in setup.cfg. ``url`` there is the one place for the address of the repository.
"""

import re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!https?://|#)([^)\s]+)\)")
"""A link, or with its exclamation mark a picture, within the repository."""


def repository() -> str:
    """The address of the repository."""
    config = ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    return config["metadata"]["url"]


def absolute(text: str, url: str) -> str:
    """``text`` with the addresses in ``url`` of what it links to and shows."""
    return LINK.sub(lambda link: f"{link[1]}{link[2]}({url}/{'raw' if link[1] else 'blob'}/HEAD/{link[3]})", text)


if __name__ == "__main__":
    from setuptools import setup

    setup(long_description=absolute((ROOT / "README.md").read_text(encoding="utf-8"), repository()))
