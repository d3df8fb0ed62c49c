"""What an operator asks for in the admin: read from a form, put as a question, and done by controls."""

from typing import Any

from django import forms
from django.utils.formats import number_format
from django.utils.translation import gettext_lazy as _

from . import controls
from .conf import MAX_LIMIT
from .ledger.controls import LONGEST
from .snapshot import PoolSnapshot, Snapshot

# Translators: {pool} is a name, {limit} and {now} are numbers.
LIMIT = _("Set the limit of the pool {pool} from {now} to {limit}?")
RESET = _("Give the limit of the pool {pool}, which is {now}, back to the settings?")
PAUSE = _("Pause the pool {pool}? Nobody new is let in; open connections stay.")
RESUME = _("Let the pool {pool} admit connections again?")
DRY_RUN_ON = _("Begin a dry run of the pool {pool}? Whom it would refuse is counted, and let in.")
DRY_RUN_OFF = _("End the dry run of the pool {pool}? It refuses connections from then on.")
# Translators: {target} is the name of a worker or a host, {over} a number of seconds.
DRAIN = _("Drain {target}? It takes no new connections, and closes those it has within {over} s.")
CANCEL = _("End the drain of {target}? It takes new connections again.")

QUESTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "limit": (LIMIT, ("pool", "limit")),
    "reset": (RESET, ("pool",)),
    "pause": (PAUSE, ("pool",)),
    "resume": (RESUME, ("pool",)),
    "dry-run-on": (DRY_RUN_ON, ("pool",)),
    "dry-run-off": (DRY_RUN_OFF, ("pool",)),
    "drain": (DRAIN, ("target", "over")),
    "cancel": (CANCEL, ("target",)),
}
"""What can be asked for: the question before it is done, and the fields that it needs."""

# Translators: {held} and {limit} are numbers.
BELOW_USE = _("{held} connections are open. They stay, and nobody new is let in until there are fewer than {limit}.")


class ActionForm(forms.Form):
    """One action of :data:`QUESTIONS`, with the fields that it needs."""

    kind = forms.ChoiceField(choices=[(kind, kind) for kind in QUESTIONS])
    pool = forms.CharField(max_length=40, required=False)
    limit = forms.IntegerField(min_value=0, max_value=MAX_LIMIT, required=False)
    target = forms.CharField(max_length=64, required=False)
    over = forms.FloatField(min_value=0, max_value=LONGEST, required=False)

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or {}
        for name in QUESTIONS.get(given.get("kind", ""), ("", ()))[1]:
            if given.get(name) in (None, "") and name not in self.errors:
                self.add_error(name, forms.ValidationError(self.fields[name].error_messages["required"]))
        return given

    @property
    def given(self) -> dict[str, Any]:
        """The fields that the action needs, for a form that asks again."""
        data = self.cleaned_data
        return {name: data[name] for name in ("kind", *QUESTIONS[data["kind"]][1])}

    def question(self, snapshot: Snapshot) -> str:
        pool, data = self._pool(snapshot), self.cleaned_data
        return str(QUESTIONS[data["kind"]][0]).format(
            pool=data["pool"],
            target=data["target"],
            over=f"{data['over'] or 0:g}",
            limit=number_format(data["limit"] or 0, force_grouping=True),
            now=number_format(pool.limit, force_grouping=True) if pool else "?",
        )

    def warning(self, snapshot: Snapshot) -> str:
        """What must be known before the limit is lowered below what is held."""
        pool, limit = self._pool(snapshot), self.cleaned_data["limit"]
        if pool is None or self.cleaned_data["kind"] != "limit" or pool.held <= limit:
            return ""
        held, below = (number_format(count, force_grouping=True) for count in (pool.held, limit))
        return str(BELOW_USE).format(held=held, limit=below)

    def _pool(self, snapshot: Snapshot) -> PoolSnapshot | None:
        return next((pool for pool in snapshot.pools if pool.name == self.cleaned_data["pool"]), None)

    def act(self, by: str) -> tuple[controls.Change, ...]:
        """Do it. Faults are those of :mod:`.controls`."""
        data = self.cleaned_data
        match data["kind"]:
            case "drain":
                return controls.drain(data["target"], by=by, over=data["over"])
            case "cancel":
                return controls.cancel(data["target"], by=by)
            case "limit" | "reset" as kind:
                return controls.change(data["pool"], by=by, limit=data["limit"] if kind == "limit" else None)
            case "pause" | "resume" as kind:
                return controls.change(data["pool"], by=by, paused=kind == "pause")
            case kind:
                return controls.change(data["pool"], by=by, dry_run=kind == "dry-run-on")
