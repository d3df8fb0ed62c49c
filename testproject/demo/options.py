"""Values of options that describe herds."""

import re
from argparse import ArgumentTypeError

from .rules import RULES, Rule

UNITS = {"ms": 0.001, "s": 1.0}

REDIS_HELP = "the URL of a running Redis, such as redis://127.0.0.1:6379/0; without it one is started"

Mix = dict[str, int]
"""Clients by the name of their rule."""


def positive(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII):
        raise ArgumentTypeError("must be a whole number, at least 1")
    return int(text)


def port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65_535:
        raise ArgumentTypeError("must be a whole number from 0 to 65535")
    return int(text)


def seconds(text: str) -> float:
    """Seconds of ``10ms``, ``0.5s`` or ``2``."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(ms|s)?", text, re.ASCII)
    if not found:
        raise ArgumentTypeError("must be a time, such as 10ms, 0.5s or 2")
    return float(found[1]) * UNITS[found[2] or "s"]


def mix(text: str) -> Mix:
    """The clients of ``ticket=600,hammer=600``."""
    groups: Mix = {}
    for part in text.split(","):
        name, _, count = part.strip().partition("=")
        if name not in RULES or name in groups:
            raise ArgumentTypeError(f"must be RULE=CLIENTS,…, each rule once; the rules are {', '.join(RULES)}")
        groups[name] = positive(count)
    if all(RULES[name].gives_up for name in groups):
        raise ArgumentTypeError("needs a rule by which clients come back")
    return groups


def rules_of(groups: Mix) -> list[Rule]:
    """The rule of each client, evenly mixed."""
    places = sorted(((each + 0.5) / count, name) for name, count in groups.items() for each in range(count))
    return [RULES[name] for _, name in places]
