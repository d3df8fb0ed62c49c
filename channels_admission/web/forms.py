"""The form for an operator's actions in the admin: its question, its message, and the call of ``controls``."""

from typing import Any, NamedTuple

from django import forms
from django.utils.formats import number_format
from django.utils.translation import gettext_lazy as _

from .. import conf, controls
from ..conf import MAX_LIMIT
from ..core.overrides import EVERY_WORKER
from ..exceptions import ConfigurationError, ControlError
from ..ledger.overrides import LONGEST
from ..runtime import targets
from ..status.values import Health, PoolSnapshot, Snapshot

# Translators: {pool} is a name, {limit} and {now} are numbers.
LIMIT = _("Set the limit of the pool {pool} from {now} to {limit}?")
RESET = _("Reset the limit of the pool {pool} from {now} to the settings?")
PAUSE = _("Pause the pool {pool}? New connections are refused; open connections stay.")
RESUME = _("Let the pool {pool} admit connections again?")
DRY_RUN_ON = _("Begin a dry run of the pool {pool}? Connections that it would refuse are counted and admitted.")
DRY_RUN_OFF = _("End the dry run of the pool {pool}? It refuses connections from then on.")
# Translators: {target} is the name of a worker or a host, {over} a number of seconds.
DRAIN = _("Drain {target}? It refuses new connections to all pools and closes its own within {over} s.")
CANCEL = _("End the drain of {target}? It admits new connections again.")
CANCEL_ALL = _("End all drains of workers and hosts? They admit new connections again.")

LIMIT_SET = _("Pool {pool}: the limit is {limit} now.")
LIMIT_RESET = _("Pool {pool}: the limit of the settings is in force again.")
PAUSED = _("Pool {pool}: new connections are refused.")
RESUMED = _("Pool {pool}: connections are admitted again.")
DRY_RUN_BEGUN = _("Pool {pool}: the dry run has begun.")
DRY_RUN_ENDED = _("Pool {pool}: the dry run has ended.")
DRAINED = _("Pool {pool}: {target} closes its connections within {over} s.")
CANCELLED = _("Pool {pool}: {target} admits connections again.")
CANCELLED_ALL = _("Pool {pool}: all workers admit connections again.")


class Action(NamedTuple):
    question: Any
    done: Any
    needs: tuple[str, ...]
    """Fields of :class:`ActionForm`."""


ACTIONS = {
    "limit": Action(LIMIT, LIMIT_SET, ("pool", "limit")),
    "reset": Action(RESET, LIMIT_RESET, ("pool",)),
    "pause": Action(PAUSE, PAUSED, ("pool",)),
    "resume": Action(RESUME, RESUMED, ("pool",)),
    "dry-run-on": Action(DRY_RUN_ON, DRY_RUN_BEGUN, ("pool",)),
    "dry-run-off": Action(DRY_RUN_OFF, DRY_RUN_ENDED, ("pool",)),
    "drain": Action(DRAIN, DRAINED, ("target", "over")),
    "cancel": Action(CANCEL, CANCELLED, ("target",)),
}
"""The actions: the question before each, and the message afterwards for every pool that it changed."""

# Translators: {held} and {limit} are numbers.
DOWN = _("The ledger is down. Nothing can be changed until it is back.")
BELOW_USE = _("Open connections: {held}. They stay; new ones are refused until fewer than {limit} are open.")


class ActionForm(forms.Form):
    """One of :data:`ACTIONS` with its fields."""

    kind = forms.ChoiceField(choices=[(kind, kind) for kind in ACTIONS], label=_("Action"))
    pool = forms.CharField(max_length=40, required=False, label=_("Pool"))
    limit = forms.IntegerField(min_value=0, max_value=MAX_LIMIT, required=False, label=_("Limit"))
    target = forms.CharField(max_length=64, required=False, label=_("Worker or host"))
    over = forms.FloatField(min_value=0, max_value=LONGEST, required=False, label=_("Seconds"))
    at = forms.CharField(max_length=40, required=False)
    """The pool beside which the action was chosen, to which the page returns."""

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or {}
        action = ACTIONS.get(given.get("kind", ""))
        for name in action.needs if action else ():
            if given.get(name) in (None, "") and name not in self.errors:
                self.add_error(name, forms.ValidationError(self.fields[name].error_messages["required"]))
        if (target := given.get("target")) and (given.get("kind"), target) != ("cancel", EVERY_WORKER):
            try:
                targets.check(target)
            except ControlError as error:
                self.add_error("target", error.translated())
        return given

    @property
    def given(self) -> dict[str, Any]:
        """The fields of the action, for the confirmation form."""
        data = self.cleaned_data
        names = ("kind", *ACTIONS[data["kind"]].needs, *(("at",) if data["at"] else ()))
        return {name: data[name] for name in names}

    @property
    def place(self) -> str:
        """The part of the page to return to, as the end of its URL; empty for the whole page."""
        pool = self.cleaned_data.get("at", "")
        return f"#pool-{pool}" if pool in conf.current().pools else ""

    def problem(self, snapshot: Snapshot) -> str:
        """Why the action is refused without asking for confirmation, else empty."""
        data = self.cleaned_data
        if snapshot.ledger.health is Health.DOWN:
            return f"{DOWN} {snapshot.ledger.error}"
        try:
            if "pool" in self._action.needs:
                conf.current().pool(data["pool"])
            if data["kind"] == "drain":
                targets.known(data["target"], {worker.id for pool in snapshot.pools for worker in pool.workers})
        except ControlError as error:
            return error.translated()
        except ConfigurationError as error:
            return str(error)
        return ""

    def question(self, snapshot: Snapshot) -> str:
        if self._is_every_drain:
            return str(CANCEL_ALL)
        pool = self._pool(snapshot)
        now = number_format(pool.limit, force_grouping=True) if pool else "?"
        return self._said(self._action.question, self.cleaned_data["pool"], now)

    def done(self, pool: str) -> str:
        """The message for a changed pool."""
        return self._said(CANCELLED_ALL if self._is_every_drain else self._action.done, pool)

    @property
    def _is_every_drain(self) -> bool:
        """Whether this is the button that ends a drain of all workers, whose target cannot be typed."""
        return (self.cleaned_data["kind"], self.cleaned_data["target"]) == ("cancel", EVERY_WORKER)

    @property
    def _action(self) -> Action:
        return ACTIONS[self.cleaned_data["kind"]]

    def _said(self, text: Any, pool: str, now: str = "") -> str:
        data = self.cleaned_data
        return str(text).format(
            pool=pool,
            target=data["target"],
            over=f"{data['over'] or 0:g}",
            limit=number_format(data["limit"] or 0, force_grouping=True),
            now=now,
        )

    def warning(self, snapshot: Snapshot) -> str:
        """A warning if the new limit is below the slots held, else empty."""
        pool, limit = self._pool(snapshot), self.cleaned_data["limit"]
        if pool is None or self.cleaned_data["kind"] != "limit" or pool.held <= limit:
            return ""
        held, below = (number_format(count, force_grouping=True) for count in (pool.held, limit))
        return str(BELOW_USE).format(held=held, limit=below)

    def _pool(self, snapshot: Snapshot) -> PoolSnapshot | None:
        return next((pool for pool in snapshot.pools if pool.name == self.cleaned_data["pool"]), None)

    def act(self, by: str) -> tuple[controls.Change, ...]:
        """Carry out the action; raises what :mod:`.controls` raises."""
        data = self.cleaned_data
        match data["kind"]:
            case "drain":
                return controls.drain(data["target"], by=by, over=data["over"])
            case "cancel":
                return controls.cancel(controls.ALL_WORKERS if self._is_every_drain else data["target"], by=by)
            case "limit" | "reset" as kind:
                return controls.change(data["pool"], by=by, limit=data["limit"] if kind == "limit" else None)
            case "pause" | "resume" as kind:
                return controls.change(data["pool"], by=by, paused=kind == "pause")
            case kind:
                return controls.change(data["pool"], by=by, dry_run=kind == "dry-run-on")
