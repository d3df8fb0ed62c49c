"""The files for containers: their schemas, their agreement with the package, and all of compose.yaml at work."""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from channels_admission.limiter.registry import EXIT_TIMEOUT
from channels_admission.readiness import PATH, REASONS

from support import ROOT, TESTS
from support.clients import Client, leave_all, look, shows
from support.composed import (
    COMPOSE,
    CONTAINERS,
    SERVICES,
    WORKERS,
    Site,
    composed,
    has_containers,
    mounts,
    settings_of_the_workers,
)
from support.deployment import settings_of_the_files
from support.waiting import eventually

KUBERNETES = CONTAINERS / "kubernetes"
OBJECTS = {
    (found["kind"], path.name): found
    for path in KUBERNETES.glob("*.yaml")
    for found in yaml.safe_load_all(path.read_text())
}
SITE = {kind: found for (kind, file), found in OBJECTS.items() if file == "site.yaml"}
POD = SITE["Deployment"]["spec"]["template"]["spec"]
(WORKER,) = POD["containers"]
ENV = {each["name"]: each.get("value") for each in WORKER["env"]}
STATUS_TOKEN = SITE["Secret"]["stringData"]["STATUS_TOKEN"]
IN_KUBERNETES = json.loads(ENV["CHANNELS_ADMISSION"].replace("$(STATUS_TOKEN)", STATUS_TOKEN))
DOCKERFILE = (CONTAINERS / "Dockerfile").read_text()
COMMAND = json.loads(re.search(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[1])
ALIVE = f"{PATH}?ignore={','.join(sorted(REASONS))}"
"""Ready whatever the state of the pool: asks only whether the event loop answers."""


# The published schemas


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program that carries the schemas; without it the test is skipped, and in CI fails."""
    if importlib.util.find_spec(module) is None:
        if "CI" in os.environ:
            pytest.fail(f"{module} must be there in CI.")
        pytest.skip("pip install 'channels-admission[deploy]'")
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.integration
def test_compose_yaml_follows_the_schema_of_compose():
    told = run("check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(CONTAINERS / "compose.yaml"))
    assert told.returncode == 0, told.stdout


@pytest.mark.integration
def test_the_manifests_follow_the_schemas_of_kubernetes():
    files = [str(KUBERNETES / name) for name in ("site.yaml", "hpa.yaml")]
    told = run("kubernetes_validate", "--strict", "--kubernetes-version", "1.34", *files)
    assert (told.returncode, (told.stdout + told.stderr).count(" passed for ")) == (0, 5), told.stdout + told.stderr


OF_OPERATORS = {"ScaledObject": "keda.yaml", "ServiceMonitor": "servicemonitor.yaml"}
TYPED = """
import type {{ IScaledObject }} from "@kubernetes-models/keda/keda.sh/v1alpha1";
import type {{ IServiceMonitor }} from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
export const scaled: IScaledObject = {ScaledObject};
export const monitor: IServiceMonitor = {ServiceMonitor};
"""


@pytest.mark.integration
def test_the_manifests_of_the_operators_have_the_fields_of_their_types(tmp_path):
    """The types are made from the operators' own: TypeScript finds each unknown field, and each of another type."""
    if shutil.which("npm") is None:
        if "CI" in os.environ:
            pytest.fail("npm must be there in CI.")
        pytest.skip("no npm on the PATH")
    shutil.copytree(TESTS / "js" / "manifests", tmp_path, dirs_exist_ok=True)
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120, "check": False}
    npm = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], **options)
    assert npm.returncode == 0, npm.stderr
    found = {kind: json.dumps(OBJECTS[kind, file]) for kind, file in OF_OPERATORS.items()}
    wrong = {kind: text.replace('"spec": {', '"spec": {"nothing": 1, ') for kind, text in found.items()}
    tsc = ["node_modules/.bin/tsc", "--noEmit", "--strict", "--target", "es2022", "--module", "nodenext"]
    for name, objects in (("right", found), ("wrong", wrong)):
        (tmp_path / f"{name}.mts").write_text(TYPED.format(**objects))
    right, wrong = (subprocess.run([*tsc, f"{name}.mts"], **options) for name in ("right", "wrong"))
    assert (right.returncode, right.stdout) == (0, "")
    assert len(re.findall(r"nothing\W+does not exist in type 'I\w+Spec'", wrong.stdout)) == 2, wrong.stdout


# The files fit each other and the package


def test_every_file_that_a_container_has_is_there():
    assert [path for name in SERVICES for path in mounts(name).values() if not path.exists()] == []
    assert COMPOSE["volumes"].keys() == {
        text.split(":")[0] for each in SERVICES.values() for text in each.get("volumes", ()) if text[0] != "."
    }
    context = CONTAINERS / SERVICES[WORKERS[0]]["build"]["context"]
    copied = re.search(r"^COPY (.*) \./$", DOCKERFILE, re.MULTILINE)[1].split()
    assert context.resolve() == ROOT
    assert [name for name in [*copied, "channels_admission", "testproject"] if not (ROOT / name).exists()] == []
    kept = (CONTAINERS / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in kept if line[0] == "!"} == {*copied, "channels_admission", "testproject"}


def test_the_workers_of_compose_have_the_settings_that_the_files_of_nginx_fit(admission):
    ours, theirs = settings_of_the_workers(), json.loads(settings_of_the_files())
    assert {name: ours[name] for name in theirs} == theirs
    assert len(WORKERS) == admission(**ours).pool("default").expected_workers
    (files,) = (line for line in (CONTAINERS / "../nginx/nginx.conf").read_text().splitlines() if "rlimit" in line)
    assert f" {SERVICES['nginx']['ulimits']['nofile']};" in files


GRACE = {
    "compose": (settings_of_the_workers(), float(SERVICES[WORKERS[0]]["stop_grace_period"].removesuffix("s"))),
    "kubernetes": (IN_KUBERNETES, POD["terminationGracePeriodSeconds"]),
}


@pytest.mark.parametrize(("keys", "grace"), GRACE.values(), ids=GRACE)
def test_a_container_has_the_time_for_a_drain_and_for_the_end_of_its_server(admission, keys, grace):
    graceful = float(COMMAND[COMMAND.index("--timeout-graceful-shutdown") + 1])
    read = admission(**keys)
    assert read.drain_delay + read.drain_on_stop + EXIT_TIMEOUT + graceful < grace


def test_the_lock_files_are_in_a_volume_that_the_worker_s_user_may_write():
    volumes = dict(text.split(":")[::-1] for text in SERVICES[WORKERS[0]]["volumes"])
    (mounted,) = WORKER["volumeMounts"]
    assert settings_of_the_workers()["LOCK_DIR"] in volumes
    assert IN_KUBERNETES["LOCK_DIR"] == mounted["mountPath"]
    assert f"install -d -o site -m 0755 {mounted['mountPath']}" in DOCKERFILE
    assert {POD["securityContext"][name] for name in ("runAsUser", "fsGroup")} == {10001}
    assert "--uid 10001" in DOCKERFILE


def test_no_state_of_a_pool_ends_a_worker_and_only_its_own_takes_it_out_of_rotation():
    assert WORKER["livenessProbe"]["httpGet"]["path"] == WORKER["startupProbe"]["httpGet"]["path"] == ALIVE
    assert ALIVE in SERVICES[WORKERS[0]]["healthcheck"]["test"][-1]
    assert WORKER["readinessProbe"]["httpGet"]["path"] == f"{PATH}?ignore=full,paused"
    period = WORKER["readinessProbe"]["periodSeconds"] * WORKER["readinessProbe"]["failureThreshold"]
    assert IN_KUBERNETES["DRAIN_DELAY"] > 2 * period


def test_the_objects_of_kubernetes_name_each_other():
    labels = SITE["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        SITE["Deployment"]["spec"]["selector"]["matchLabels"],
        SITE["Service"]["spec"]["selector"],
        SITE["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]
    assert selectors == [labels] * 3
    (port,), (contained,) = SITE["Service"]["spec"]["ports"], WORKER["ports"]
    assert port["targetPort"] == contained["name"] == WORKER["readinessProbe"]["httpGet"]["port"]
    monitor = OBJECTS["ServiceMonitor", "servicemonitor.yaml"]["spec"]
    (endpoint,) = monitor["endpoints"]
    assert (monitor["selector"]["matchLabels"], endpoint["port"]) == (
        SITE["Service"]["metadata"]["labels"],
        port["name"],
    )
    credentials = endpoint["authorization"]["credentials"]
    assert credentials["name"] == SITE["Secret"]["metadata"]["name"]
    assert credentials["key"] in SITE["Secret"]["stringData"]


def test_both_autoscalers_keep_a_pod_at_seven_tenths_of_what_it_may_hold():
    hpa, keda = OBJECTS["HorizontalPodAutoscaler", "hpa.yaml"]["spec"], OBJECTS["ScaledObject", "keda.yaml"]["spec"]
    (metric,), (trigger,) = hpa["metrics"], keda["triggers"]
    name, target = metric["external"]["metric"]["name"], metric["external"]["target"]
    assert int(target["averageValue"]) == int(trigger["metadata"]["threshold"]) == 0.7 * IN_KUBERNETES["MAX_PER_WORKER"]
    assert name in trigger["metadata"]["query"]
    assert f"| `{name}` |" in (ROOT / "docs/metrics.md").read_text()
    assert target["type"] == trigger["metricType"] == "AverageValue"
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    assert hpa["maxReplicas"] * IN_KUBERNETES["MAX_PER_WORKER"] == IN_KUBERNETES["MAX_CONNECTIONS"]
    assert hpa["scaleTargetRef"]["name"] == keda["scaleTargetRef"]["name"] == SITE["Deployment"]["metadata"]["name"]
    assert hpa["behavior"]["scaleDown"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]


def test_prometheus_loads_every_file_of_rules_that_its_container_has_and_no_other():
    rules = yaml.safe_load((CONTAINERS / "prometheus/prometheus.yml").read_text())["rule_files"]
    folder = ROOT / "docs/monitoring"
    assert {path.resolve() for path in mounts("prometheus").values() if path.suffix == ".yml"} == {
        CONTAINERS / "prometheus/prometheus.yml",
        *folder.glob("*.yml"),
    }
    assert [Path("/etc/prometheus", name).as_posix() in mounts("prometheus") for name in rules] == [True, True]


def test_grafana_finds_its_dashboard_and_prometheus_its_token():
    (dashboard,) = (Path(place) for place, path in mounts("grafana").items() if path.suffix == ".json")
    provisioning = CONTAINERS / "grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/admission.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert provider["options"]["path"] == str(dashboard.parent)
    assert source["url"] == "http://prometheus:9090"
    assert (CONTAINERS / "prometheus/token").read_text() == settings_of_the_workers()["STATUS_TOKEN"]


# All of it at work


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with composed(tmp_path_factory.mktemp("composed")) as running:
        yield running


@pytest.fixture
def seen(admission, running):
    """The settings in force here are those of the workers, as for ``ws_status``."""
    settings = settings_of_the_workers()
    del settings["LOCK_DIR"]
    return admission(**settings, LEDGER=running.redis.url, PREFIX="channels_admission")


def asked(site: Site, query: str) -> list[float]:
    """What Prometheus answers."""
    url = f"{site.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=5) as response:
        return [float(each["value"][1]) for each in json.load(response)["data"]["result"]]


@pytest.mark.integration
async def test_a_container_that_is_killed_and_restarted_gives_its_slots_back_at_once(running: Site, seen, figures):
    """The lease of 30 s runs on. No other container of the machine sees the process of the killed one."""
    clients = [await Client.enter(running.nginx) for _ in range(30)]
    await eventually(lambda: shows(lambda pool: [worker.held for worker in pool.workers] == [10, 10, 10]))
    await eventually(lambda: asked(running, "max(channels_admission_pool_held)") == [30], seconds=15, every=0.2)
    assert asked(running, "count(up{job='site'} == 1)") == [1]
    await eventually(lambda: asked(running, "pool:channels_admission_held:max") == [30], seconds=15, every=0.2)
    doomed = running.workers[0]
    await asyncio.to_thread(doomed.kill)
    killed = time.monotonic()
    await eventually(lambda: sum(client.is_open for client in clients) == 20)
    held_while_dead = (await look()).held
    await asyncio.to_thread(doomed.start)
    serves = time.monotonic()
    await eventually(lambda: shows(lambda pool: pool.held == 20), seconds=seen.lease / 3)
    free = time.monotonic()
    assert held_while_dead == 30 or not has_containers()
    pool = await look()
    assert {worker.held for worker in pool.workers} == {0, 10}
    assert len(pool.workers) == 3
    figures.note(
        "one of three containers, with 10 of 30 slots, is killed and restarted; lease 30 s, heartbeat 3 s",
        "its slots are free as soon as the next process in it reports, those of the others stay",
        f"{free - serves:.2f} s after it served, {free - killed:.2f} s after the kill",
    )
    await leave_all(clients)
