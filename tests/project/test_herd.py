"""A real herd against four real workers: it comes back at the pool's rate, and asks no more than it must."""

import json
import subprocess
import sys

import pytest

from demo.servers import TESTPROJECT, Workers, environment

SETTINGS = {"MAX_CONNECTIONS": 5000, "RETRY_AFTER": [0.5, 60]}


def ws_herd(*args, env=None):
    command = [sys.executable, "manage.py", "ws_herd", *args]
    env = env or environment("redis://127.0.0.1:1", {})
    return subprocess.run(command, cwd=TESTPROJECT, env=env, capture_output=True, text=True, timeout=300)


def returns(redis, prefix, clients, rate, *rules):
    """What ``ws_herd --json`` says, by rule; the pool admits ``rate`` a second, and a second's rate at once."""
    settings = {**SETTINGS, "LEDGER": redis.url, "PREFIX": prefix, "CONNECT_RATE": rate, "CONNECT_BURST": rate}
    with Workers("uvicorn", 4, redis_url=redis.url, settings=settings) as workers:
        url = workers.origin.replace("http", "ws") + "/ws/echo/"
        chosen = [word for rule in rules for word in ("--rule", rule)]
        done = ws_herd(url, "--clients", str(clients), "--json", *chosen, env=workers.env)
    assert done.returncode == 0, done.stderr
    return {each["rule"]: each for each in json.loads(done.stdout)}


def holds_the_pace(herd, rate):
    """The promise for clients that follow the hint. Nothing can hurry servers while they bury the old connections."""
    assert herd["back"] == herd["clients"]
    assert set(herd["failures"]) == {"1013"}
    assert herd["seconds_to_99"] - herd["seconds_to_answer"] <= 1.10 * herd["clients"] / rate
    assert herd["attempts_per_client"] <= 2.1
    assert herd["wasted_attempts"] == herd["attempts"] - herd["clients"]
    # The schedule expects some never to come. Those that find nothing free come again within one of the next seconds.
    assert herd["peak_after_first_second"] <= 1.6 * rate
    return True


@pytest.mark.integration
def test_four_hundred_clients_cut_at_once_come_back_at_the_rate(redis_server, prefix):
    herd = returns(redis_server, prefix, 400, 100, "ticket")["ticket"]
    assert holds_the_pace(herd, 100)
    assert herd["peak_attempts_per_second"] >= 400


@pytest.mark.integration
@pytest.mark.long
def test_two_thousand_clients_cut_at_once_come_back_at_the_rate_and_sooner_than_by_other_rules(redis_server, prefix):
    herds = returns(redis_server, prefix, 2000, 200, "hint", "full-jitter", "doubling")
    hint = herds.pop("hint")
    assert holds_the_pace(hint, 200)
    for other in herds.values():
        assert other["attempts_per_client"] > 1.5 * hint["attempts_per_client"]
        assert other["peak_after_first_second"] > 1.3 * 200
    assert herds["full-jitter"]["seconds_to_99"] > hint["seconds_to_99"]


@pytest.mark.integration
def test_a_refused_handshake_is_waited_out_by_the_hint_in_its_body(redis_server, prefix):
    settings = {
        **SETTINGS, "LEDGER": redis_server.url, "PREFIX": prefix,
        "CONNECT_RATE": 20, "CONNECT_BURST": 20, "REFUSE_WITH": "http",
    }  # fmt: skip
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=settings) as workers:
        url = workers.origin.replace("http", "ws") + "/ws/echo/"
        done = ws_herd(url, "--clients", "60", "--rule", "ticket", "--json", env=workers.env)
    (herd,) = json.loads(done.stdout)
    assert (herd["back"], set(herd["failures"])) == (60, {"503"})
    assert herd["attempts_per_client"] <= 2.1


@pytest.mark.integration
def test_one_that_is_connected_is_answered_while_a_costly_herd_comes_back(redis_server, prefix):
    settings = {"PRESSURE": {}, "LEDGER": redis_server.url, "PREFIX": prefix}
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=settings) as workers:
        url = workers.origin.replace("http", "ws")
        options = ("--clients", "30", "--rule", "hint", "--json", "--beside", f"{url}/ws/echo/")
        done = ws_herd(f"{url}/ws/heavy/", *options, env=workers.env)
    assert done.returncode == 0, done.stderr
    (herd,) = json.loads(done.stdout)
    assert herd["back"] == 30
    assert 0 < herd["echo_p50"] <= herd["echo_p99"] <= herd["echo_max"]


@pytest.mark.integration
def test_a_costly_herd_comes_back_without_admission_and_by_default_settings():
    options = ("--connect-cost", "5ms", "--clients", "40", "--workers", "1", "--rule", "hint", "--json")
    done = ws_herd(*options)
    assert done.returncode == 0, done.stderr
    without, by_default = json.loads(done.stdout)
    assert (without["settings"], by_default["settings"]) == ("without admission", "defaults")
    for herd in (without, by_default):
        assert (herd["back"], herd["rule"], herd["ideal_seconds_to_99"]) == (40, "hint", None)
        assert herd["seconds_to_100"] >= 40 * 0.005
        assert 0 < herd["echo_p50"] <= herd["echo_p99"] <= herd["echo_max"]
    assert (without["attempts"], without["failures"]) == (40, {})


@pytest.mark.integration
def test_the_clients_of_a_mixed_herd_follow_rules_of_their_own(redis_server, prefix):
    settings = {**SETTINGS, "LEDGER": redis_server.url, "PREFIX": prefix, "CONNECT_RATE": 40, "CONNECT_BURST": 20}
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=settings) as workers:
        url = workers.origin.replace("http", "ws") + "/ws/echo/"
        done = ws_herd(url, "--mix", "hint=30,hammer=30,gone=20", "--rate", "40", "--json", env=workers.env)
    assert done.returncode == 0, done.stderr
    hint, hammer, gone = json.loads(done.stdout)
    assert [each["rule"] for each in (hint, hammer, gone)] == ["hint", "hammer", "gone"]
    assert (hint["back"], hammer["back"], gone["attempts"]) == (30, 30, 20)
    assert gone["back"] + gone["failures"]["1013"] == 20
    assert hint["ideal_seconds_to_99"] == pytest.approx(0.99 * 80 / 40)
    assert min(hint["attempts"], hammer["attempts"]) > 30  # which of them is in first, a hold decides


@pytest.mark.parametrize("options", [("--mix", "hint"), ("--connect-cost", "soon")])
def test_an_option_that_makes_no_sense_is_named(options):
    done = ws_herd(*options)
    assert (done.returncode, options[0] in done.stderr, "Traceback" in done.stderr) == (2, True, False)


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "0.0.0.0"])
def test_a_herd_goes_to_this_machine_only(host):
    done = ws_herd(f"ws://{host}:8000/")
    assert done.returncode == 1
    assert "A herd goes to loopback addresses only" in done.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "wss://127.0.0.1/", "nonsense"])
def test_a_url_must_be_a_plain_websocket_one(url):
    done = ws_herd(url)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_a_herd_that_finds_no_server_says_so(unused_tcp_port):
    done = ws_herd(f"ws://127.0.0.1:{unused_tcp_port}/", "--clients", "3", "--seconds", "1")
    assert done.returncode == 1
    assert "Only 0 of 3 clients came in within 1 s" in done.stderr
