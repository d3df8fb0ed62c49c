"""The files for Prometheus and Grafana ask for what is exported, and say the same however many targets there are."""

import json
import re
import subprocess

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from channels_admission.web.metrics import PoolCollector, exposition
from channels_admission.web.worker_metrics import WorkerCollector

from support import ROOT
from support.deployment import find
from support.snapshots import SNAPSHOT

MONITORING = ROOT / "docs" / "monitoring"
PREFIX = "channels_admission_"


def texts() -> list[str]:
    """What both URLs answer."""
    return [exposition(SNAPSHOT, "", of_workers=of_workers)[0].decode() for of_workers in (False, True)]


def samples() -> list[Sample]:
    return [sample for text in texts() for family in parse(text) for sample in family.samples]


def families() -> list[Metric]:
    return [*PoolCollector(SNAPSHOT).collect(), *WorkerCollector(SNAPSHOT).collect()]


def exported() -> set[str]:
    """Every name that a sample may have."""
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {family.name + end for family in families() for end in ends.get(family.type, ("",))}


def labels() -> set[str]:
    told = (label for family in families() for label in family._labelnames)
    return {*told, "le", "job", "instance", "cluster", "namespace"}


def rules() -> list[str]:
    text = "".join((MONITORING / name).read_text() for name in ("alerts.yml", "recording.yml"))
    return re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)


def board() -> dict:
    return json.loads((MONITORING / "grafana.json").read_text())


def panels() -> list[dict]:
    return board()["panels"]


def queries() -> list[str]:
    """Of the panels and annotations."""
    asked = [target for panel in panels() for target in panel.get("targets", ())]
    return [each["expr"] for each in (*asked, *board()["annotations"]["list"])]


def names(expression: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}\w+", expression))


def test_every_rule_and_panel_asks_for_what_is_exported():
    assert len(rules()) >= 8
    assert len(queries()) >= 10
    for expression in [*rules(), *queries()]:
        assert names(expression)
        assert names(expression) <= exported()
        for group in re.findall(r"(?:by|without|on|ignoring) ?\(([\w, ]*)\)", expression):
            assert set(re.findall(r"\w+", group)) <= labels()
        for label in re.findall(r"(\w+)(?:=~|!~|!=|=)\"", expression):
            assert label in labels()


def test_the_board_is_of_one_site():
    """The job tells sites apart; the pools and the queries are those of its variable."""
    variables = {each["name"]: each for each in board()["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "pool"]
    for expression in [*queries(), variables["pool"]["query"]]:
        metrics = re.findall(rf"{PREFIX}\w+(\{{[^}}]*\}})?", expression)
        assert all('job="$job"' in selector for selector in metrics), expression


def test_the_board_shows_every_metric_but_those_that_only_alerts_need():
    shown = {name for expression in queries() for name in names(expression)}
    told = {name for expression in rules() for name in names(expression)}
    assert {name for name in exported() - shown - told if not name.endswith(("_count", "_sum"))} == set()


def test_every_rule_has_a_severity_a_summary_and_a_time_to_wait():
    text = (MONITORING / "alerts.yml").read_text()
    blocks = text.split("- alert: ")[1:]
    for block in blocks:
        assert re.match(r"Admission[A-Z]\w+\n", block)
        for part in (r"^ +for: \d+[smhd]$", r"^ +severity: (warning|critical)$", r"^ +summary: .{10,}$"):
            assert re.search(part, block, re.MULTILINE)


def test_every_panel_has_a_place_a_title_of_its_own_and_a_description():
    shown = panels()
    assert [panel["title"] for panel in shown if panel["type"] != "row" and not panel["description"]] == []
    assert len({panel["id"] for panel in shown}) == len({panel["title"] for panel in shown}) == len(shown)
    cells = [
        (x, y)
        for panel in shown
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


# With Prometheus's own program


def test_families_follow_the_conventions():
    for family in families():
        assert re.fullmatch(rf"{PREFIX}[a-z_]+", family.name)
        assert re.fullmatch(r"[A-Z].*\.", family.documentation)
        assert all(sample.value >= 0 for sample in family.samples)


@pytest.mark.integration
def test_prometheus_has_nothing_to_say_of_the_metrics():
    told = subprocess.run(
        [find("promtool"), "check", "metrics"], input="".join(texts()), capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


@pytest.mark.integration
def test_prometheus_takes_the_configuration_in_the_documents(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/metrics.md").read_text(), re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(text)
    command = [find("promtool"), "check", "config", tmp_path / "prometheus.yml"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, "SUCCESS" in told.stdout) == (0, True), told.stdout + told.stderr


def in_job(expression: str, job: str) -> str:
    """The expression of a site, whose targets have this job; nothing in the result tells the job."""
    expression = expression.replace("$job", job).replace("$pool", ".*").replace("$__rate_interval", "1m")
    if "{job=" not in expression:  # a recording rule
        expression = re.sub(rf"({PREFIX}\w+)", rf'\1{{job="{job}"}}', expression)
    return expression.replace("by (job, ", "by (")


@pytest.mark.integration
def test_the_board_and_the_recordings_say_the_same_of_one_target_and_of_three(tmp_path):
    recorded = re.findall(r"^ +expr: (.+)$", (MONITORING / "recording.yml").read_text(), re.MULTILINE)
    # Drains, limits and a pause of the snapshot show every annotation; a reading that is unknown shows nothing.
    unknown = re.compile(r"descriptors_ratio|cpu_ratio|thread_wait|monitor_reading|worker_memory_ratio")
    series, tests = [], []
    for job, targets in (("one", 1), ("three", 3)):
        for name, labels, *_, value in ((sample.name, sample.labels, sample.value) for sample in samples()):
            slope = value / 100 if name.endswith(("_total", "_count", "_sum", "_bucket")) else 0
            for instance in range(targets):
                told = {**labels, "job": job, "instance": f"i:{instance}"}
                text = ",".join(f"{label}={json.dumps(text)}" for label, text in told.items())
                series.append({"series": f"{name}{{{text}}}", "values": f"{value}+{slope}x20"})
    for expression in [*queries(), *recorded]:
        one, three = in_job(expression, "one"), in_job(expression, "three")
        tests.append(f"(({one}) unless (({one}) == ({three}))) or (({three}) unless ({one}))")
        if not unknown.search(expression):
            tests.append(f"absent({one})")
    test = {"interval": "15s", "input_series": series}
    test["promql_expr_test"] = [{"expr": each, "eval_time": "4m", "exp_samples": []} for each in tests]
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"rule_files": [], "tests": [test]}))  # JSON is YAML
    told = subprocess.run([find("promtool"), "test", "rules", path], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout.split()[-1]) == (0, "SUCCESS"), told.stdout + told.stderr
