"""Where the parts of the admin's pages stand, in a real Chromium.

The pictures are kept in pytest's folder of the test.
"""

from dataclasses import replace

import pytest
from selenium.webdriver.support.wait import WebDriverWait

from channels_admission.core.levels import Level
from channels_admission.status import cache
from channels_admission.status.values import Connects, Second

from support.pages import INDEX, PAGE, report

WIDE, NARROW = 1300, 500
PLACES = """
const of = (card, selector) => {
  const part = selector ? card.querySelector(selector) : card;
  const { left, top, width } = part.getBoundingClientRect();
  return width ? { left, top } : null;
};
const parts = {
  card: null, title: "h3", count: ".admission-count", bar: ".admission-bar", figures: ".admission-figures",
  state: ".admission-state", chart: ".admission-chart",
};
return [...document.querySelectorAll('[data-list="pools"] > [data-key]')].map((card) =>
  Object.fromEntries(Object.entries(parts).map(([name, selector]) => [name, of(card, selector)])));
"""
"""For each card of the start page, where its parts begin; null for what is not shown."""
CELLS = """
const list = document.querySelector(".admission-summary .admission-figures");
const box = (element) => {
  const { left, right, top, bottom } = element.getBoundingClientRect();
  return { left, right, top, bottom };
};
const gauge = document.querySelector(".admission-summary .admission-gauge");
return {
  gauge: box(gauge), list: box(list), summary: box(list.parentElement),
  cells: [...list.children].filter((cell) => cell.offsetParent).map((cell) => ({
    ...box(cell), name: cell.dataset.notice ?? "", text: cell.textContent.trim(),
    filled: Math.max(...[...cell.querySelectorAll("dt, dd, li")].map((part) => box(part).bottom)),
  })),
};
"""
"""The figures that the status page shows of its pool, and the boxes around them."""
DRAWN = """
const charts = [...document.querySelectorAll('[data-list="pools"] .admission-chart')];
return charts.length > 0 && charts.every((chart) => chart.offsetParent && chart.querySelector("path"));
"""
COLUMN_GAP, ROW_GAP, GAP = 28, 8, 16
"""Pixels between figures, their rows, and the parts of the summary."""


@pytest.fixture
def chief(browser, live_server, client, django_user_model):
    """Open a page as an administrator, in a window of so many pixels; returns the browser."""
    client.force_login(django_user_model.objects.create_superuser("chief"))

    def visit(url: str, width: int, picture):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(f"{live_server.url}/static/channels_admission/admission.css")
        browser.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value})
        browser.get(live_server.url + url)
        WebDriverWait(browser, 15, 0.1).until(lambda page: page.execute_script(DRAWN))
        browser.save_screenshot(str(picture))
        return browser

    return visit


def see(monkeypatch, change) -> None:
    """Let the pages show the pools of the ledger with a change."""
    snapshot = cache.look().now
    changed = replace(snapshot, pools=tuple(map(change, snapshot.pools)))

    async def collect(settings):
        return changed

    monkeypatch.setattr(cache, "collect", collect)


@pytest.mark.parametrize(("kind", "has_a_line"), [("paused", False), ("dry_run", True)])
def test_a_paused_or_dry_pool_begins_every_line_where_the_others_do_and_shifts_no_column(
    chief, admission, monkeypatch, tmp_path, kind, has_a_line
):
    admission(MAX_CONNECTIONS=50, POOLS={"chat": {}})
    report("web-1:1:ab", 20)
    report("web-1:1:ab", 20, pool="chat")
    plain = chief(INDEX, WIDE, tmp_path / "before.png").execute_script(PLACES)
    see(monkeypatch, lambda pool: replace(pool, **{kind: pool.name == "chat"}))
    seen = chief(INDEX, WIDE, tmp_path / "after.png").execute_script(PLACES)
    assert [card["state"] is not None for card in plain] == [False, False]
    assert {card["state"] is not None for card in seen} == {False, has_a_line}
    for cards in (plain, seen):
        for card in cards:
            assert {place["left"] for place in card.values() if place} == {card["title"]["left"]}
        for part in ("title", "count", "bar", "figures", "chart"):
            assert len({card[part]["top"] for card in cards}) == 1, part
    assert [card["title"] for card in seen] == [card["title"] for card in plain]
    assert len({card["title"]["left"] for card in seen}) == 2


@pytest.mark.parametrize(("width", "number"), [(WIDE, 1), (NARROW, 2)])
def test_the_alert_and_the_worst_seconds_leave_no_hole(chief, admission, monkeypatch, tmp_path, width, number):
    admission(MAX_CONNECTIONS=50)
    report("web-1:1:ab", 40, counters={"admitted": 400, "full": 12, "rate": 3})
    worst = Connects(worst=tuple(Second(1_790_000_000 + number, 9 - number) for number in range(5)))
    see(monkeypatch, lambda pool: replace(pool, alert=Level.CRITICAL, connects=worst))
    seen = chief(PAGE, width, tmp_path / "status.png").execute_script(CELLS)
    cells, around, summary = seen["cells"], seen["list"], seen["summary"]
    assert {"alert", "worst"} < {cell["name"] for cell in cells}
    assert all(cell["text"] for cell in cells)
    rows = {}
    for cell in cells:
        rows.setdefault(cell["top"], []).append(cell)
    assert len(rows) == number
    top = around["top"]
    for row in rows.values():
        left = around["left"]
        for cell in row:
            assert (cell["left"], cell["top"]) == pytest.approx((left, top), abs=0.5)
            left = cell["right"] + COLUMN_GAP
        top = max(cell["filled"] for cell in row) + ROW_GAP
    assert around["bottom"] == pytest.approx(top - ROW_GAP, abs=0.5)
    assert around["top"] == pytest.approx(seen["gauge"]["bottom"] + GAP, abs=0.5)
    assert summary["bottom"] == pytest.approx(around["bottom"] + GAP, abs=0.5)
