"""Where the keys of a layout stand, and what of the other layouts counts."""

import pytest

from channels_admission.core.readings import Elsewhere
from channels_admission.ledger.layout import elsewhere_of, key_of

NOW = 1_796_000_000_000
SOON = NOW + 1000


def test_the_keys_of_the_first_layout_bear_no_number():
    assert key_of("site", "default", "counts", 1) == "site:{default}:counts"
    assert key_of("site", "default", "counts", 12) == "site:{default}:12:counts"


@pytest.mark.parametrize("part", ["controls", "layouts"])
def test_what_all_layouts_share_bears_no_number_in_any(part):
    assert key_of("site", "chat", part, 12) == f"site:{{chat}}:{part}"


def test_the_other_layouts_are_added_up():
    said = {"1": f"9|9|{SOON}", "2": f"5|2|{SOON}", "3": f"7|1|{SOON}|more"}
    assert elsewhere_of(said, NOW) == Elsewhere(12, 3)
    assert elsewhere_of(said, NOW, 3) == Elsewhere(14, 11)
    assert elsewhere_of({}, NOW) == Elsewhere()


@pytest.mark.parametrize(
    "text",
    ["", "5", f"5|2|{NOW}", f"5|2|{NOW + 3_600_001}", f"-5|2|{SOON}", f"5|{10**7 + 1}|{SOON}", f"5|2|{SOON}more"],
)
def test_what_is_over_or_is_none_of_ours_counts_nothing(text):
    assert elsewhere_of({"2": text}, NOW) == Elsewhere()
