"""The script in parts: each is one table, uses only what stands before it, and leaves room for what is to come."""

import re

import pytest
import redis

from channels_admission.ledger import script
from channels_admission.ledger.buckets import NUMERAL_BYTES, numeral

LIMIT, MOST = 200, 120
"""Locals that one function of Lua 5.1 may have, and those that one of ours may."""
REDIS_HAS = {"redis", "string", "table", "math", "cmsgpack", "struct"}
WORDS = {
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not", "or",
    "return", "then", "true", "while",
}  # fmt: skip
FUNCTION = re.compile(r"\bfunction\b ?[\w.]*(?:\([^)]*\))?")


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def code(source: str) -> str:
    """Without comments."""
    return re.sub(r"--[^\n]*", "", source)


def more(number: int) -> str:
    return "".join(f"local more{each} = {each} " for each in range(number))


def with_more(source: str, number: int) -> str:
    """The script with so many more locals in every function, and in none but the functions of its own."""
    return more(number) + FUNCTION.sub(lambda match: f"{match[0]} {more(number)}", code(source))


def as_read(client, text: str) -> bytes | None:
    """A number as the script reads it, in decimal."""
    return client.eval(f"{script._literal(script.part('codec'))} return codec.whole(codec.numeral(ARGV[1]))", 0, text)


@pytest.mark.parametrize("number", [0, 35, 36, 1_000_000, 36**6 - 1, 36**6, 2**32, 2**32 + 1, 36**NUMERAL_BYTES - 1])
def test_the_script_reads_each_number_as_it_was_written(client, number):
    """Also one of more bits than Lua reads at once in a Redis of 32."""
    assert as_read(client, numeral(number)) == b"%d" % number
    assert int(numeral(number), 36) == number


def test_the_script_reads_no_number_that_is_too_long_to_be_exact(client):
    with pytest.raises(redis.ResponseError, match="number expected, got nil"):
        as_read(client, numeral(36**NUMERAL_BYTES))


@pytest.mark.parametrize("source", [script.reconcile(), script.control()], ids=["reconcile", "control"])
def test_no_function_has_more_than_120_locals(client, source):
    """Redis takes each with 80 more, and would refuse the 201st."""
    client.script_load(with_more(source, LIMIT - MOST))
    client.script_load(with_more(f"local function crowded() {more(MOST)} end\n{source}", LIMIT - MOST))
    with pytest.raises(redis.ResponseError, match="more than 200 local variables"):
        client.script_load(with_more(f"local function crowded() {more(MOST + 1)} end\n{source}", LIMIT - MOST))


@pytest.mark.parametrize("place", range(len(script.PARTS)), ids=script.PARTS)
def test_a_part_uses_only_the_parts_before_it(place):
    """Any other name would be a global, and Redis fails a script that reads one."""
    known = {"const", "pairs", "ipairs", "unpack", "next", "tonumber", "tostring", "KEYS", "ARGV", *REDIS_HAS, *WORDS}
    for name in script.PARTS[:place]:
        known |= declared(re.findall(r"^local .*", script.part(name), re.MULTILINE))
    text = re.sub(r"'[^'\n]*'", "", code(script.part(script.PARTS[place])))
    known |= declared(text.splitlines())
    assert set(re.findall(r"(?<![\w.:])[A-Za-z_]\w*\b(?! =[^=])", text)) - known - fields(text) == set()


def declared(lines: list[str]) -> set[str]:
    """What these lines of a part declare: locals, parameters and names of a loop."""
    heads = (
        re.findall(r"\blocal ([\w, ]+)|\bfunction ?[\w.]*\(([^)]*)\)|\bfor ([\w, ]+?) ?(?:=|in\b)", line)
        for line in lines
    )
    return {name for head in heads for names in head for name in re.findall(r"\w+", " ".join(names))}


def fields(text: str) -> set[str]:
    """Names that stand in a table: ``{name = value}``."""
    return set(re.findall(r"[{,]\s*(\w+) = ", text))


@pytest.mark.parametrize("name", script.PARTS[:-1])
def test_a_part_is_one_table_named_after_it(name):
    names = re.findall(r"^local ([\w, ]+) =", script.part(name), re.MULTILINE)
    assert names[0].split(", ")[0] == name
    assert len(names) == (2 if name == "report" else 1)
    assert {each.split(".")[0] for each in script.DEFINED.findall(script.part(name))} <= {name}


def test_no_part_is_long():
    lines = {name: len(script.part(name).splitlines()) for name in (*script.PARTS, "control")}
    assert max(lines.values()) <= 300
    assert lines["main"] <= 60


def test_only_a_function_of_the_script_can_be_replaced():
    body = "function() return 0 end"
    assert f"\nclock.wall = {body}\n" in script.reconcile({"clock.wall": body})
    with pytest.raises(ValueError, match=r"no function clock\.wail"):
        script.reconcile({"clock.wail": body})


@pytest.mark.parametrize("text", ["it's", "a\nb", "\\", '"'])
def test_no_constant_can_end_its_text(text):
    with pytest.raises(ValueError, match="might read otherwise"):
        script._lua({"name": text})
    with pytest.raises(ValueError, match="might read otherwise"):
        script._lua((text,))


def test_constants_are_as_python_has_them(client):
    read = (
        "return {const.SEAL, const.KEY.own, const.POOL[15], tostring(const.ROUNDING), #const.POOL, const.VERDICTS.full}"
    )
    assert client.eval(script._literal(read.replace("const.POOL[", "(const.POOL)[")), 0) == [
        6, 10, b"#check", b"1e-06", 15, b"f",
    ]  # fmt: skip
    read = "return {(const.NO_HANDSHAKES).C and 1, (const.NO_HANDSHAKES)['ledger.calls'] or 0, '#const.SEAL'}"
    assert client.eval(script._literal(read), 0) == [1, 0, b"#6"]


def test_no_constant_is_left_without_its_value():
    with pytest.raises(KeyError):
        script._literal("return const.NONE")
    assert "const" not in code(script.RECONCILE) + code(script.CONTROL)
