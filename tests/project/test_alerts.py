"""The alert rules: Prometheus takes them, each fires and resolves, and each has a page that says what to do."""

import re
import runpy
import subprocess

import pytest

from support import ROOT, TESTS, targets
from support.deployment import find

MONITORING = ROOT / "docs/monitoring"
RULES, RECORDING = MONITORING / "alerts.yml", MONITORING / "recording.yml"
UNIT_TESTS = TESTS / "project/alerts_test.yml"
RUNBOOK = ROOT / "docs/runbook.md"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())


@pytest.mark.integration
@pytest.mark.parametrize("told_by", [targets.one, targets.several, targets.replaced])
def test_every_rule_fires_and_resolves_however_many_targets_there_are(told_by, tmp_path):
    """Prometheus's own program says so."""
    head, *tests = UNIT_TESTS.read_text().replace("../../docs/monitoring", str(MONITORING)).split("  - name: ")
    for interval in ("15s", "1m"):  # a day takes a while
        chosen = [test for test in tests if f" interval: {interval}\n" in test]
        text = "  - name: ".join([head.replace("15s", interval), *chosen])
        (tmp_path / f"{interval}.yml").write_text(targets.multiplied(text, told_by))
    files = sorted(tmp_path.iterdir())
    told = subprocess.run([find("promtool"), "test", "rules", *files], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout.count("SUCCESS")) == (0, 2), told.stdout


@pytest.mark.integration
@pytest.mark.parametrize("rules", [RULES, RECORDING], ids=lambda path: path.name)
def test_prometheus_takes_the_rules(rules):
    told = subprocess.run([find("promtool"), "check", "rules", rules], capture_output=True, text=True, check=False)
    number = len(re.findall(r"- (?:alert|record): ", rules.read_text()))
    assert (told.returncode, f"SUCCESS: {number} rules found" in told.stdout) == (0, True), told.stdout


@pytest.mark.parametrize("alert", ALERTS)
def test_every_rule_is_tested_before_it_fires_while_it_does_and_after(alert):
    tested = [
        "exp_alerts" in block
        for test in UNIT_TESTS.read_text().split("  - name: ")[1:]
        if re.match(rf"{alert}\n", test)
        for block in test.split("- eval_time: ")[1:]
        if f"alertname: {alert}\n" in block
    ]
    assert tested[0] is tested[-1] is False
    assert any(tested)


def test_a_rule_tells_sites_apart():
    for expression in re.findall(r"^ +expr: (.+)$", RULES.read_text(), re.MULTILINE):
        groups = re.findall(r"(?:by|on) ?\(([\w, ]*)\)", expression)
        assert groups
        assert all(group.startswith("job, cluster, namespace") for group in groups if group)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_rule_has_a_page_that_says_what_it_means_how_to_see_it_and_what_to_do(alert):
    url = runpy.run_path(str(ROOT / "setup.py"))["repository"]()
    assert f"runbook_url: {url}/blob/HEAD/docs/runbook.md#{alert.lower()}\n" in RULES.read_text()
    (section,) = re.findall(rf"^## {alert}\n\n(.*?)(?=\n## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert [part for part in ("**Means**", "**See**", "**Do**") if part not in section] == []


def test_the_runbook_has_no_page_for_an_alert_that_is_gone():
    assert re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE) == ALERTS
