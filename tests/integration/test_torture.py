"""Eight real workers that are killed, stopped, cut off and lied to, while a judge counts what they hold in truth."""

from collections import Counter

import pytest

from demo.servers import Redis
from support.proxy import Proxy
from support.torture import NETWORK, Torture

pytestmark = pytest.mark.fault

LIMIT, HEARTBEAT = 50, 0.5
RUNS = [
    pytest.param(1, 15, id="1"),
    *(pytest.param(seed, 60, id=f"{seed} long", marks=pytest.mark.long) for seed in range(2, 8)),
]


@pytest.mark.parametrize(("seed", "seconds"), RUNS)
@pytest.mark.parametrize("policy", ["freeze", "share"])
async def test_no_more_is_held_than_the_policy_allows(admission, prefix, tmp_path, figures, policy, seed, seconds):
    """With ``freeze`` never more than the limit; with ``share`` what :class:`torture.Judge` argues."""
    with Redis() as redis:
        keys = {
            "MAX_CONNECTIONS": LIMIT, "HEARTBEAT": HEARTBEAT, "LEASE": 10 * HEARTBEAT, "LEDGER_TIMEOUT": 0.25,
            "LEDGER": redis.url,
            "PREFIX": prefix, "WHEN_LEDGER_DOWN": policy, "EXPECTED_WORKERS": 8,
        }  # fmt: skip
        admission(**keys)
        async with Proxy(redis.port) as proxy, Torture(redis, proxy, keys, seed, tmp_path) as torture:
            await torture.run(seconds)
            await torture.rest()
            pool_of_the_end = sum(torture.cells.held)
        judge, log = torture.judge, torture.log()
    faults = Counter(torture.faults)
    figures.note(
        f"eight workers, {seconds} s of faults, policy `{policy}`, seed {seed}: "
        + ", ".join(f"{count} × {name.replace('_', ' ')}" for name, count in sorted(faults.items())),
        "never above the limit of 50" if policy == "freeze" else "above the limit by no more than was lent out",
        f"at most {judge.most} held, {judge.most_allowed} allowed, in {judge.samples} checks",
    )
    assert judge.over == []
    assert judge.most > 0.9 * LIMIT
    assert judge.samples > 200 * seconds
    assert log.count("had run out") == 0
    assert "Ledger lost" in log
    assert "Traceback" not in log
    assert faults.keys() >= {fault.__name__ for fault in NETWORK}
    assert pool_of_the_end > 0
