"""The first command of the README, on each Python that the tests run on, without a Redis on the PATH.

The other tests of the demo need one Python: ``tests/integration/test_demo.py``.
"""

import os
import re
import shlex
import subprocess
import sys

from support import ROOT


def test_the_first_command_ends_well_with_nothing_but_python(tmp_path):
    readme = (ROOT / "README.md").read_text()
    install, command = re.search(r"^```console\n(.*)\n(.*)\n```", readme, re.MULTILINE).groups()
    assert install == "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]'"
    python, *arguments = shlex.split(command)
    assert python == ".venv/bin/python"
    ended = subprocess.run(
        [sys.executable, *arguments, "--once"],
        cwd=ROOT, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Starting valkey-server and 3 uvicorn workers" in ended.stdout
    assert "50 of 50 slots held, 0 free" in ended.stdout
    assert "✓ The limit held" in ended.stdout
