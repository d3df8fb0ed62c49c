"""A worker's reserve: slots that the ledger counts for it before their handshakes come. Pure.

Where each admission needs a grant of the ledger (a token of the rate, the share of a class), a slot of the reserve has
one, and a slot that is free again has none.
"""

LEAST = 4
"""Slots, where the room allows them, so that a lone handshake need not wait."""
AHEAD = 2
"""Heartbeats for whose handshakes the reserve is large enough, so that the reports of heartbeats alone can fill it."""


class Reserve:
    """How large the reserve should be, by recent handshakes and as the ledger allows, and which grants are unused."""

    def __init__(self, *, is_needed: bool) -> None:
        """``is_needed``: whether any handshake can use it; else it begins with the first one that can."""
        self._least = LEAST if is_needed else 0
        self._most = LEAST
        self.came = self._came_before = 0
        """Handshakes of this heartbeat, and of the one before, that needed no more than a slot and its token."""
        self.grants = self._kept = self._unused = 0
        """Handshakes that may enter by what the ledger has granted; those of the reserve; what is to be given back."""
        self._fit()

    def renew(self, *, heartbeat: bool) -> None:
        """A report is made; a ``heartbeat`` begins with it, or not."""
        self._fit()
        if heartbeat:
            self.came, self._came_before = 0, self.came

    def allow(self, most: int) -> None:
        """The ledger allows so many slots."""
        self._most = most
        self._fit()

    def _fit(self) -> None:
        came = max(self.came, self._came_before)
        self.size = min(self._most, max(LEAST if came else self._least, AHEAD * came))
        """Slots; the ledger gives fewer where it must."""
        self.least, self.most = min(self.size, self.size / 4 + 1), 2 * max(self.size, min(self._most, LEAST))
        """Slots that are counted and not held, within which no call is made for them alone."""

    def keep(self, number: int) -> int:
        """Note that a report keeps ``number`` slots; return the number of grants that it gives back."""
        unused, self._unused = max(0, self._unused + self.grants - number), 0
        self.grants = self._kept = number
        return unused

    def settle(self, granted: int, ahead: int, *, is_usable: bool) -> None:
        """Add what a reply grants: ``granted`` for handshakes, ``ahead`` for the reserve.

        Unless it ``is_usable``, the reserve is given back.
        """
        self._kept = max(0, self.grants) + ahead
        if not is_usable:
            self._kept, self._unused = 0, self._kept
        self.grants = self._kept + granted

    def end_grants(self) -> None:
        """All handshakes of the last report are answered: what none of them has used is for no later one.

        Its token is lost, since the ledger has filled the bucket meanwhile as if they had entered.
        """
        self.grants = min(self.grants, self._kept)

    def drop(self, granted: int = 0) -> None:
        """Of all that is unused, the grants to handshakes alone still count."""
        self.grants, self._kept, self._unused = granted, 0, 0
