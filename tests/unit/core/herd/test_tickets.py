"""Tickets: whole, of the pool, and signed by one of its secrets; or none."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_admission.core.herd.tickets import LENGTH, PER_SECOND, Signer, Ticket

NOW = 1_800_000_000.0
HALF = 1 << 31
"""Hundredths of a second: how far from now a time may be."""

signer = Signer("default", [b"secret"])
times = st.integers(1 - HALF, HALF - 1).map(lambda hundredths: (round(NOW * PER_SECOND) + hundredths) / PER_SECOND)
tickets = st.builds(Ticket, times, times, st.integers(0, (1 << 32) - 1))
ONE = Ticket(NOW + 16.4, NOW + 16.4, 7)


@given(tickets)
def test_what_is_written_is_read(ticket):
    text = signer.write(ticket)
    assert len(text) == LENGTH
    assert signer.read(text, NOW) == ticket


@given(st.data())
def test_a_ticket_with_another_letter_is_none(data):
    text = signer.write(ONE)
    index = data.draw(st.integers(0, LENGTH - 1))
    letter = data.draw(st.characters(exclude_characters=text[index]))
    assert signer.read(text[:index] + letter + text[index + 1 :], NOW) is None


@given(st.text() | st.text("ABCabc019-_", min_size=LENGTH, max_size=LENGTH))
def test_any_other_text_is_none(text):
    assert signer.read(text, NOW) is None


@pytest.mark.parametrize("text", ["{}\n", " {}", "{}=", "{}A"])
def test_a_ticket_and_more_is_none(text):
    assert signer.read(text.format(signer.write(ONE)), NOW) is None


def test_a_ticket_of_another_pool_or_secret_is_none():
    text = signer.write(ONE)
    assert Signer("other", [b"secret"]).read(text, NOW) is None
    assert Signer("default", [b"another"]).read(text, NOW) is None


def test_older_secrets_are_good_and_the_first_signs():
    both = Signer("default", [b"new", b"secret"])
    assert both.read(signer.write(ONE), NOW) == ONE
    assert both.write(ONE) == Signer("default", [b"new"]).write(ONE)


def test_times_survive_the_wrap_of_their_hundredths():
    wrap = (1 << 32) / PER_SECOND * 42
    ticket = Ticket(wrap + 0.01, wrap - 0.01, 1)
    for now in (wrap - 5, wrap + 5):
        assert signer.read(signer.write(ticket), now) == ticket


@given(st.binary(min_size=18, max_size=18))
def test_no_forged_ticket_is_read(noise):
    assert signer.read(urlsafe_b64encode(noise).decode(), NOW) is None


def test_a_ticket_is_the_same_for_half_a_round_and_then_another_one():
    text = signer.write(ONE)
    assert signer.read(text, ONE.place + HALF / PER_SECOND - 1) == ONE
    assert signer.read(text, ONE.place + HALF / PER_SECOND + 1).place == round(ONE.place + 2 * HALF / PER_SECOND, 2)


def test_the_fields_are_not_of_another_ticket():
    first, second = (urlsafe_b64decode(signer.write(ONE._replace(number=each))) for each in (1, 2))
    assert signer.read(urlsafe_b64encode(first[:12] + second[12:]).decode(), NOW) is None
