"""``ALERTS``: its recipients, and what it may hold."""

import pytest

from channels_admission.conf.alerts import Recipients, recipients
from channels_admission.conf.validators import Wrong


@pytest.mark.parametrize(
    ("value", "must"),
    [
        (None, "a dict of MAIL_ADMINS, WEBHOOK, LEDGER"),
        ({"MAIL": True}, "a dict of MAIL_ADMINS, WEBHOOK, LEDGER. 'MAIL' is unknown."),
        (
            {"WEBHOK": ""},
            "a dict of MAIL_ADMINS, WEBHOOK, LEDGER. 'WEBHOK' is unknown. Did you mean 'WEBHOOK'?",
        ),
        ({"https://a/token": True}, "a dict of MAIL_ADMINS, WEBHOOK, LEDGER. One of its keys is unknown."),
        ({"MAIL_ADMINS": 1}, "a dict in which MAIL_ADMINS and LEDGER are True or False"),
        ({"LEDGER": None}, "a dict in which MAIL_ADMINS and LEDGER are True or False"),
        *(
            ({"WEBHOOK": value}, "a dict in which WEBHOOK is a URL that begins with https:// or http://")
            for value in (
                "ftp://a",
                5,
                "https://",
                "http://[::1",
                "file:///etc/passwd",
                "https://user:pass@a/",
                "https://a:b/x",
                "https://a/\n",
            )
        ),
    ],
)
def test_recipients_that_are_none(value, must):
    with pytest.raises(Wrong) as wrong:
        recipients(value)
    assert f"{wrong.value}. {wrong.value.why}".startswith(must)


def test_recipients_are_told_by_the_settings(admission):
    assert admission().alerts == Recipients()
    keys = {"MAIL_ADMINS": True, "WEBHOOK": "https://example.org/x", "LEDGER": True}
    assert admission(ALERTS=keys).alerts == Recipients(True, "https://example.org/x", True)
