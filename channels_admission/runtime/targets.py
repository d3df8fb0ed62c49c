"""The targets of drains: the workers and hosts that an operator names. Pure."""

from collections.abc import Iterable

from django.utils.translation import gettext_noop as _

from ..conf.validators import closest
from ..core.overrides import printable
from ..exceptions import ControlError
from .identity import host_name

PATTERN = frozenset("*?[]")

# Translators: {name} and {near} are in quotes already.
NO_PATTERN = _("{name} is a pattern: give the name of one worker or host.")
USE_ALL = _("All workers are drained by ws_drain --all.")
ALIKE = _("More than one worker is {name}; give its id: {ids}.")
NO_HOST = _("No host {name} is known.")
NO_WORKER = _("No worker {name} is known.")
DID_YOU_MEAN = _("Did you mean {near}?")


def check(target: str) -> None:
    """Refuse a pattern; its nearest valid host name would name another host."""
    if PATTERN & {*target}:
        raise ControlError(NO_PATTERN, USE_ALL, name=repr(printable(target)))


def known(target: str, ids: Iterable[str]) -> str:
    """The registered worker or host that ``target`` names; raises :exc:`~.exceptions.ControlError` for no or many."""
    check(target)
    if len(alike := _matching(_spelled(target), ids)) > 1:
        raise ControlError(ALIKE, name=repr(printable(target)), ids=", ".join(alike))
    found, hosts = resolved(target, ids), {name.partition(":")[0] for name in ids}
    if found not in {*ids, *hosts}:
        text, names = (NO_WORKER, {name.rpartition(":")[0] for name in ids}) if ":" in target else (NO_HOST, hosts)
        near = closest(target, sorted(names))
        raise ControlError(text, "" if near is None else DID_YOU_MEAN, name=repr(printable(target)), near=repr(near))
    return found


def resolved(target: str, ids: Iterable[str]) -> str:
    """The id of the worker ``host:pid`` if there is one; else the target, with its host spelled as in ids."""
    target = _spelled(target)
    return next(iter(_matching(target, ids)), target)


def _spelled(target: str) -> str:
    host, colon, process = target.partition(":")
    return f"{host_name(host)}{colon}{process}" if target else ""


def _matching(target: str, ids: Iterable[str]) -> list[str]:
    """The ids of the workers that match ``host:pid``."""
    return sorted(name for name in ids if target.count(":") == 1 and name.startswith(f"{target}:"))
