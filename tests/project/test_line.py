"""The benchmark of a mixed herd at real servers: its scenes, its figures, and its clients."""

import argparse
import asyncio
import json

import pytest

from benchmarks.entrance import ideal, wait_until_settled
from benchmarks.line import SCENES, Scene, figures, lines, returns, run

from demo.sites import DEFAULTS, site
from demo.stage import manage


def test_each_scene_has_an_ideal():
    ideals = {name: scene.ideal for name, scene in SCENES.items()}
    assert [ideals.pop("full pool"), ideals.pop("full pool, hint alone")] == [6.0, 6.0]
    assert ideals.pop("hint alone") == pytest.approx(9.9)
    assert list(ideals.values()) == pytest.approx([11.88] * 4)


@pytest.mark.parametrize(
    ("keys", "stay", "best"),
    [({"MAX_CONNECTIONS": 200}, 3.0, 9.0), ({"MAX_CONNECTIONS": 204}, 3.0, 6.0), ({"CONNECT_RATE": 60}, None, 9.9)],
)
def test_those_that_are_connected_beside_a_herd_have_slots_of_its_pool(keys, stay, best):
    options = argparse.Namespace(clients=600, workers=4, stay=stay)
    assert ideal(options, keys) == pytest.approx(best)
    assert ideal(options, {}) is None


@pytest.mark.parametrize(("keys", "best"), [({}, 9.9 - 0.5), ({"CONNECT_BURST": 20}, 9.9 - 0.1)])
def test_the_ideal_counts_with_the_tokens_of_a_pool_that_has_settled(keys, best):
    options = argparse.Namespace(clients=2000, workers=4, stay=None)
    settings = {"CONNECT_RATE": 200, **keys}
    assert ideal(options, settings, settled=True) == pytest.approx(best)
    assert ideal(options, settings) == pytest.approx(9.9)


@pytest.mark.integration
def test_a_pool_has_settled_once_operators_are_told_so():
    with site("uvicorn", 1, DEFAULTS) as workers:
        wait_until_settled(workers)
        assert json.loads(manage(workers.env, "ws_status", "--json"))["ledger"]["health"] == "ok"


def test_a_group_has_a_row_of_its_own():
    found = [
        {"rule": "ticket", "clients": 1140, "50 %": 6.04, "99 %": 12.5, "ideal": 10.0, "attempts": 2.0},
        {"rule": "gone", "clients": 60, "50 %": None, "99 %": None, "ideal": 10.0, "attempts": 1.0},
    ]
    assert list(lines("herd", iter(found))) == [
        "| herd | `ticket` | 1,140 | 6.0 s | 12.5 s | 10.0 s | 1.25 × | 2.00 |",
        "| herd | `gone` | 60 | – | – | 10.0 s | – | 1.00 |",
    ]


@pytest.mark.integration
def test_clients_come_by_their_rules_stay_and_leave():
    scene = Scene({"ticket": 10, "hammer": 10, "gone": 5}, {"MAX_CONNECTIONS": 10}, stay=1.0)
    with site("uvicorn", 1, {**DEFAULTS, **scene.settings}) as workers:
        herd = asyncio.run(run(workers.ports, scene, 30.0))
    ticket, hammer, gone = figures(returns(herd, scene), scene)
    back = herd.times()
    assert back[10] - back[0] >= scene.stay
    assert len(back) == 20 + sum(client.back is not None for client in herd.clients if client.rule.gives_up)
    assert (gone["attempts"], ticket["ideal"]) == (1.0, 2.0)
    assert herd.refused == {"1013": sum(client.attempts for client in herd.clients) - len(back)}
    assert hammer["50 %"] <= hammer["99 %"]
