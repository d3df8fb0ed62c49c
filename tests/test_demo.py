"""The demo does what the README says, with every server."""

import subprocess
import sys

import pytest

from demo.servers import SERVING, TESTPROJECT

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("server", SERVING)
def test_the_demo_ends_by_itself_with_the_limit_held(server):
    command = [sys.executable, "manage.py", "demo", "--once", "--server", server]
    ended = subprocess.run(command, cwd=TESTPROJECT, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "closed with 1013 Try Again Later; retry-after=N   150" in ended.stdout
    assert "50 of 50 slots held, 0 free" in ended.stdout
    assert "✓ The limit held" in ended.stdout
