"""``docs/status.schema.json``: what ``ws_status`` prints is valid by it, and what lacks a field is not."""

import asyncio
import copy
import io
import json
from collections.abc import Iterator
from contextlib import suppress

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from channels_admission import controls
from channels_admission.core.readings import Load
from channels_admission.ledger import open_ledger

from support.reference import SCHEMA_FILE
from support.reports import Reporter

SCHEMA = json.loads(SCHEMA_FILE.read_text())
LOAD = (Load("lag", 0.004, 0.0, 0.001, 0.01), Load("memory", None, 0.0))


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})


def printed(*args: str) -> dict:
    out = io.StringIO()
    with suppress(CommandError, SystemExit):  # with something critical, or the ledger down
        call_command("ws_status", *args, "--no-color", stdout=out)
    return json.loads(out.getvalue())


@pytest.fixture
def site(admission, redis_server, tmp_path):
    """A pool with a worker, overrides, refusals and faults, and one without."""
    settings = admission(LEDGER=redis_server.url, HEARTBEAT=0.1, POOLS={"chat": {}}, MAX_CONNECTIONS=5)

    async def report() -> None:
        ledger = open_ledger(settings)
        counters = {"admitted": 9, "full": 3, "fault:OSError": 1, "calls": 4, "dry:rate": 1}
        reporter = Reporter(ledger, "a", limit=5)
        await reporter.say(2, counters=counters, load=LOAD, release="0.1.0", server="uvicorn", warn_at=0.7)
        await ledger.aclose()

    asyncio.run(report())
    controls.change("default", limit=8, over=5, paused=True, dry_run=False, by="ann")
    controls.drain("host", over=60, by="ann")
    return settings


@pytest.mark.parametrize(
    ("args", "name"),
    [(["--json"], "Snapshot"), (["--history"], "Histories"), (["--diagnose", "--json"], "Diagnosis")],
    ids=["status", "history", "diagnosis"],
)
@pytest.mark.parametrize("is_up", [True, False], ids=["up", "down"])
def test_what_is_printed_is_valid(site, admission, args, name, is_up):
    if not is_up:
        admission(LEDGER="redis://127.0.0.1:1/0")
    told = printed(*args)
    validator(name).validate(told)
    if is_up and name == "Snapshot":
        (pool, _) = told["pools"]
        assert (len(pool["workers"]), pool["controls"]["limit"]["value"], len(pool["controls"]["drains"])) == (1, 8, 1)


def places(schema: dict, value: object, at: tuple = ()) -> Iterator[tuple]:
    """The place of each field that the schema names in this value."""
    schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if isinstance(value, dict):
        for field in schema.get("properties", ()):
            if field in value:
                yield (*at, field)
                yield from places(schema["properties"][field], value[field], (*at, field))
    elif isinstance(value, list) and value:
        yield from places(schema["items"], value[0], (*at, 0))


@pytest.mark.parametrize(
    ("args", "name"), [(["--json"], "Snapshot"), (["--diagnose", "--json"], "Diagnosis")], ids=["status", "diagnosis"]
)
def test_what_lacks_a_field_or_has_another_name_for_it_is_not_valid(site, args, name):
    told, checked = printed(*args), 0
    for *before, field in places({"$ref": f"#/$defs/{name}"}, told):
        changed = copy.deepcopy(told)
        place = changed
        for step in before:
            place = place[step]
        place["renamed"] = place.pop(field)
        with pytest.raises(ValidationError, match=f"'{field}' is a required property"):
            validator(name).validate(changed)
        checked += 1
    assert checked >= (60 if name == "Snapshot" else 30)


def test_a_new_field_is_valid_and_another_format_is_not(site):
    told = printed("--json")
    told["pools"][0]["new"] = 1
    Draft202012Validator(SCHEMA).validate(told)
    told["format"] += 1
    with pytest.raises(ValidationError, match="1 was expected"):
        Draft202012Validator(SCHEMA).validate(told)


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)
