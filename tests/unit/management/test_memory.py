"""The system check of a worker's memory: by what was measured, or by the figures of the servers."""

import asyncio
from importlib.machinery import ModuleSpec

import pytest
from django.core import checks

from channels_admission.conf import sizing
from channels_admission.exceptions import LedgerRefused, LedgerUnavailable
from channels_admission.management import memory
from channels_admission.management.memory import check_memory
from channels_admission.runtime import servers
from channels_admission.status import capacity

from support.footprints import told

REDIS = {"LEDGER": "redis://127.0.0.1:6390/0"}
DAPHNE = sizing.FIGURES["daphne"]


@pytest.fixture(autouse=True)
def workers(settings, monkeypatch):
    """The workers that the ledger tells, or its error, on a machine where Daphne alone is installed."""
    found: list = []

    async def collect(settings, within):
        if isinstance(found, list) and found and isinstance(found[0], Exception):
            raise found[0]
        return tuple(found)

    settings.CHANNELS_ADMISSION = REDIS
    monkeypatch.setattr(capacity, "collect", collect)
    install(monkeypatch, "daphne")
    return found


def install(monkeypatch, *names: str) -> None:
    monkeypatch.setattr(servers, "find_spec", lambda name: ModuleSpec(name, None) if name in names else None)


@pytest.fixture
def total(monkeypatch):
    """``total(bytes)``: let there be so much memory."""
    return lambda size: monkeypatch.setattr(memory.Memory, "total", lambda self: size)


def needed(connections: int, share: float = 0.85) -> int:
    return -int(-((DAPHNE.worker << 20) + connections * (DAPHNE.spoken << 10)) // share)


def messages() -> list[checks.CheckMessage]:
    return check_memory(None)


@pytest.mark.parametrize(
    ("keys", "connections", "share"),
    [({}, 5000, 0.85), ({"EXPECTED_WORKERS": 5}, 1000, 0.85), ({"PRESSURE": {"memory": None}}, 5000, 1.0)],
)
def test_a_worker_has_memory_for_its_part_or_not(settings, total, keys, connections, share):
    settings.CHANNELS_ADMISSION = {**REDIS, **keys}
    total(needed(connections, share))
    assert messages() == []
    total(needed(connections, share) - 1)
    assert [message.id for message in messages()] == ["channels_admission.W007"]
    settings.DEBUG = True
    assert messages() == []


@pytest.mark.parametrize("keys", [{"ENABLED": False}, {"MAX_CONNECTIONS": -1}])
def test_it_is_silent_where_nothing_is_limited(settings, total, keys):
    total(1)
    settings.CHANNELS_ADMISSION = {**REDIS, **keys}
    assert messages() == []


def test_the_memory_that_is_missing_is_told_with_the_figure_that_it_is_by(total):
    total(100 << 20)
    (message,) = messages()
    assert not message.is_serious()
    assert message.msg == (
        f"A worker needs about {needed(5000) >> 20:,} MiB for its part of the limit, 5,000 connections of "
        f"{DAPHNE.spoken} KiB, but 100 MiB are available here. By the figure for daphne."
    )
    assert "run workers on more machines" in message.hint
    assert "manage.py ws_capacity proposes limits" in message.hint


def test_workers_that_share_a_machine_need_as_much_each(settings, total):
    total(50 << 20)
    settings.CHANNELS_ADMISSION = {**REDIS, "EXPECTED_WORKERS": 5}
    (message,) = messages()
    assert message.msg.startswith(f"Each of 5 workers needs about {needed(1000) >> 20:,} MiB for its part")
    assert f"1,000 connections of {DAPHNE.spoken} KiB (5 times that if they share a machine), but 50" in message.msg


def test_memory_allowed_to_the_process_counts(settings):
    settings.CHANNELS_ADMISSION = {**REDIS, "MEMORY_LIMIT": 150 * 2**20}
    assert [message.id for message in messages()] == ["channels_admission.W007"]
    settings.CHANNELS_ADMISSION = {**REDIS, "MEMORY_LIMIT": 150 * 2**20, "MAX_CONNECTIONS": 50}
    assert messages() == []


def test_what_the_workers_that_run_have_measured_counts_before_any_figure(workers, total):
    workers += [told(1, each=200, base=90), told(2, each=200, base=80)]
    size = -int(-((90 << 20) + 5000 * (200 << 10)) // 0.85)
    total(size)
    assert messages() == []
    total(size - 1)
    (message,) = messages()
    assert "5,000 connections of 200 KiB, but" in message.msg
    assert message.msg.endswith("Measured on 1,000 connections of the workers that run.")


def test_without_a_measurement_the_server_of_the_workers_counts_before_those_that_are_installed(workers, total):
    workers.append(told(most=50, server="uvicorn wsproto"))
    total(1)
    assert messages()[0].msg.endswith("By the figure for uvicorn wsproto.")


@pytest.mark.parametrize("error", [LedgerUnavailable("away"), LedgerRefused("no rights")])
def test_a_ledger_that_is_away_changes_nothing(workers, total, error):
    workers.append(error)
    total(1)
    assert messages()[0].msg.endswith("By the figure for daphne.")


def test_within_an_event_loop_the_ledger_is_not_asked(workers, total):
    workers.append(told(server="granian"))
    total(1)

    async def run():
        return messages()

    assert asyncio.run(run())[0].msg.endswith("By the figure for daphne.")


@pytest.mark.parametrize(
    ("names", "server"),
    [
        (("uvicorn", "websockets"), "uvicorn websockets-sansio"),
        (("uvicorn", "wsproto"), "uvicorn wsproto"),
        (("uvicorn", "websockets", "daphne"), "daphne"),
        ((), "the heaviest server"),
    ],
)
def test_of_the_servers_that_are_installed_the_lightest_counts(monkeypatch, total, names, server):
    install(monkeypatch, *names)
    total(1)
    assert messages()[0].msg.endswith(f"By the figure for {server}.")
