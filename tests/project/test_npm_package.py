"""AdmissionSocket as a package for bundlers: what it holds, and that Node finds the class in it."""

import json
import shutil
import subprocess

import pytest

import channels_admission

from support import ROOT
from support.deployment import find

FOLDER = ROOT / "channels_admission" / "static" / "channels_admission"
PACKAGE = json.loads((FOLDER / "package.json").read_text())
USE = """
import Default, { AdmissionSocket } from "admission-socket";
import { AdmittedSocket } from "admission-socket/admitted-socket.js";
const { AdmissionSocket: global } = globalThis;
await import("admission-socket/admission-socket.classic.js");
const isOne = Default === AdmissionSocket && global === AdmissionSocket && globalThis.AdmissionSocket === global;
console.log(isOne, AdmissionSocket.isFinal({ code: 1013, reason: "" }), AdmissionSocket.OPEN, AdmittedSocket.CLOSED);
"""


def test_the_version_is_that_of_the_python_package():
    assert PACKAGE["version"] == channels_admission.__version__


def test_it_holds_every_file_of_the_class_and_has_no_dependencies():
    sockets = [path.name for path in FOLDER.glob("ad*-socket.*")]
    assert sorted(PACKAGE["files"]) == sorted(["LICENSE", *sockets])
    assert (FOLDER / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert not {"dependencies", "peerDependencies", "scripts"} & PACKAGE.keys()
    named = [
        PACKAGE["main"],
        PACKAGE["types"],
        *(name for ways in PACKAGE["exports"].values() for name in ways.values()),
    ]
    assert {name.removeprefix("./") for name in named} <= set(PACKAGE["files"])


def test_node_finds_one_class_whichever_file_is_imported(tmp_path):
    folder = tmp_path / "node_modules" / PACKAGE["name"]
    folder.mkdir(parents=True)
    for name in ["package.json", *PACKAGE["files"]]:
        shutil.copy(FOLDER / name, folder)
    (tmp_path / "use.mjs").write_text(USE)
    told = subprocess.run([find("node"), "use.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (told.stdout.split(), told.stderr) == (["true", "false", "1", "3"], "")


@pytest.mark.skipif(not shutil.which("npm"), reason="no npm on the PATH")
def test_npm_packs_just_these_files():
    command = ["npm", "pack", "--dry-run", "--json", "--offline", str(FOLDER)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    packed = json.loads(told.stdout)
    (package,) = packed.values() if isinstance(packed, dict) else packed
    assert {file["path"] for file in package["files"]} == {"package.json", *PACKAGE["files"]}
