"""Themes of the admin, in a real Chromium: the start page has the panel, labels can be read, buttons are whole.

``pip install -r tests/themes.txt`` installs the themes. The pictures are kept in pytest's folder of the test.
"""

import asyncio
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import screenshots

from demo.servers import environment
from demo.stage import administer

SETTINGS = """
from project.settings import *

INSTALLED_APPS = [{theme!r}, *INSTALLED_APPS]
ROOT_URLCONF = "themed_urls"
JAZZMIN_UI_TWEAKS = {{"default_theme_mode": "dark"}}
UNFOLD = {{"THEME": "dark"}}
"""
URLS = """
from django.conf import settings
from django.urls import include, path
from project.urls import urlpatterns

if "grappelli" in settings.INSTALLED_APPS:
    urlpatterns = [path("grappelli/", include("grappelli.urls")), *urlpatterns]
"""
FAINT = """
const pencil = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const mixed = (...colours) => {
  pencil.clearRect(0, 0, 1, 1);
  for (const colour of colours) {
    pencil.fillStyle = colour;
    pencil.fillRect(0, 0, 1, 1);
  }
  return [...pencil.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (colour) => {
  const [red, green, blue] = colour.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
document.body.insertAdjacentHTML("beforeend", '<i id="canvas"></i>');
document.querySelector("#canvas").style.background = "Canvas";
const canvas = getComputedStyle(document.querySelector("#canvas")).backgroundColor;
const behind = (element) => {
  const layers = [];
  for (let each = element; each instanceof Element; each = each.parentElement) {
    layers.unshift(getComputedStyle(each).backgroundColor);
  }
  return [canvas, ...layers];
};
const contrast = (element) => {
  const ground = behind(element);
  const { color, fill } = getComputedStyle(element);
  const [one, other] = [light(mixed(...ground)), light(mixed(...ground, element instanceof SVGElement ? fill : color))];
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
};
const texts = ".admission-scale, .admission-time, .admission-axis, .admission-readout, .admission-level";
const labels = document.querySelectorAll(`.admission :is(${texts}, dt, dd, h2, button)`);
const shown = [...labels].filter((label) => label.getClientRects().length);
return [shown.length > 20, shown.filter((label) => contrast(label) < 3).map((label) => label.outerHTML)];
"""
"""Whether there are labels, and those that are hardly to be told from their ground."""
CUT = """
document.querySelectorAll(".admission details").forEach((each) => (each.open = true));
const buttons = [...document.querySelectorAll(".admission-act button")].filter((button) => button.offsetParent);
const cut = buttons.filter((each) => each.clientWidth < each.scrollWidth || each.clientHeight < each.scrollHeight);
return [buttons.length > 3, cut.map((button) => button.textContent)];
"""


def look(driver, origin: str, folder: Path, theme: str) -> None:
    scheme = "light" if theme == "grappelli" else "dark"
    driver.delete_all_cookies()
    screenshots.log_in(driver, origin)
    for page, url in (("index", ""), ("status", "channels_admission/pool/")):
        driver.get(f"{origin}/admin/{url}")
        if theme == "unfold":
            driver.execute_script("document.documentElement.classList.add('dark')")
        screenshots.wait(
            driver, lambda page: page.find_elements("css selector", f".admission[data-scheme={scheme}] path")
        )
        driver.save_screenshot(str(folder / f"{theme}-{page}.png"))
        assert driver.execute_script(FAINT) == [True, []]
    assert driver.execute_script(CUT) == [True, []]


@pytest.mark.parametrize("theme", ["unfold", "jazzmin", "grappelli"])
async def test_a_theme_shows_the_numbers_and_the_whole_buttons(
    browser, admission, redis_server, prefix, monkeypatch, tmp_path, theme
):
    if find_spec(theme) is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"{theme} is not installed; tests/themes.txt names it")
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    terms = {"PREFIX": prefix, "HEARTBEAT": 0.5, "MAX_CONNECTIONS": screenshots.LIMIT}
    admission(LEDGER=redis_server.url, **terms)
    Path(tmp_path, "themed.py").write_text(SETTINGS.format(theme=theme))
    Path(tmp_path, "themed_urls.py").write_text(URLS)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    env = environment(redis_server.url, terms, tmp_path / "db.sqlite3")
    env = {**env, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "themed"}
    await asyncio.to_thread(administer, env)
    with screenshots.served(env) as origin:
        async with screenshots.a_day():
            await asyncio.to_thread(look, browser, origin, tmp_path, theme)
