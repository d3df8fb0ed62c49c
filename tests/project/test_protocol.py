"""The page of the protocol: its bytes, its numbers, its list and its sample of a client are true."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.frames import Close, Opcode
from websockets.http11 import Response

from channels_admission.client import Ending, RetryPolicy, advice
from channels_admission.conf.validators import REASON_BYTES
from channels_admission.core.counters import Reason
from channels_admission.core.herd.line import GRACE, LEAST
from channels_admission.core.herd.tickets import LENGTH, SEAL_BYTES, Signer, Ticket
from channels_admission.core.protocol import Refusal
from channels_admission.limiter.connections.refusal import close_reason, messages

from support import ROOT
from support.conformance import TABLE, cases, table, tickets

PAGE = (ROOT / "docs" / "protocol.md").read_text()
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
REASON = f"Try Again Later; ticket={tickets()['A']}; retry-after=16.4"


def test_the_page_has_the_list():
    assert TABLE.search(PAGE)[0] == table()
    assert [case["number"] for case in cases()] == list(range(1, len(cases()) + 1))


def test_the_bytes_of_the_close_frame_are_those_of_its_reason():
    dump = re.findall(r"^[0-9a-f]{2}  ([0-9a-f ]+?)  +(.{1,16})$", PAGE, re.MULTILINE)
    frame = b"".join(bytes.fromhex(row) for row, _ in dump)
    assert frame[0] == 0x80 | Opcode.CLOSE
    assert frame[1] == len(frame) - 2
    assert Close.parse(frame[2:]) == Close(1013, REASON)
    assert "".join(text for _, text in dump) == "".join(chr(byte) if 32 <= byte < 127 else "." for byte in frame)
    assert f"`{frame[1]:02x}` its length, {frame[1]} bytes" in PAGE
    assert f"The other {len(REASON)} bytes are the reason:\n\n```text\n{REASON}\n```" in PAGE


def test_the_http_response_gives_what_the_close_frame_gives():
    head, _, body = BLOCKS["http"].rstrip("\n").partition("\n\n")
    status, *lines = head.split("\n")
    headers = Headers(tuple(line.split(": ")) for line in lines)
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert int(headers["Content-Length"]) == len(body)
    assert body == REASON
    for text, hint in [(body, "16.4"), ("", "17")]:
        ending = Ending(503, advice(Response(503, "", headers, text.encode())))
        assert ending.ticket == tickets()["A"]
        assert ending.reason.endswith(f"; retry-after={hint}")


@pytest.mark.parametrize("refuse_with", ["close", "http"])
def test_the_server_sends_what_the_page_has(admission, refuse_with):
    pool = admission(REFUSE_WITH=refuse_with).pool("default")
    scope = {"extensions": {"websocket.http.response": {}}}
    first, second = messages(scope, Refusal(Reason.FULL, 16.35, tickets()["A"]), pool)
    if refuse_with == "close":
        assert (second["code"], second["reason"]) == (1013, REASON)
    else:
        lines = [f"{name.decode()}: {value.decode()}" for name, value in first["headers"]]
        assert BLOCKS["http"].startswith("\n".join(["HTTP/1.1 503 Service Unavailable", *lines, "content-length: "]))
        assert second["body"].decode() == REASON


@given(
    st.text(max_size=200) | st.just("; ticket=") | st.just("; retry-after=5"),
    st.floats(0.5, 3600),
    st.builds(Ticket, st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, (1 << 32) - 1)),
)
def test_a_client_reads_what_the_server_writes_whatever_the_text(text, seconds, ticket):
    written = Signer("default", [b"secret"]).write(ticket)
    ending = Ending(1013, close_reason(text.encode(errors="ignore").decode(), seconds, written))
    assert len(ending.reason.encode()) <= REASON_BYTES
    assert ending.ticket == written
    hint = RetryPolicy().hint(ending.reason)
    assert hint is not None
    assert 0 <= hint - seconds <= 0.1 + 1e-9


def test_the_page_tells_the_numbers_of_the_code():
    assert f"good until {GRACE} s after the time of the hint" in PAGE
    assert f"| good for | {GRACE} s after" in PAGE
    assert f"ticket    = {LENGTH}(" in PAGE
    assert f"| ticket | {LENGTH} characters, in the URL {len('&admission_ticket=') + LENGTH} bytes more |" in PAGE
    assert f"| reason | {REASON_BYTES} bytes" in PAGE
    assert LEAST == 0.1
    assert "at least a tenth" in PAGE
    assert SEAL_BYTES == 6
    assert "2⁴⁸" in PAGE


@pytest.mark.parametrize("bound", [0, 1], ids=["shortest", "longest"])
@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case['number']}: {case['title']}")
def test_the_sample_of_a_client_passes_the_list(case, bound):
    names = {}
    exec(BLOCKS["python"], names)
    names["random"] = SimpleNamespace(uniform=lambda *bounds: bounds[bound])
    client = names["Client"]()
    for step in case["steps"]:
        wait = client.ended(*told(step["ending"]))
        assert wait == (step["wait"] and step["wait"][bound])
        assert wait is None or client.ticket == step["ticket"]


def told(ending):
    """An ending as the sample is told of it: code, reason and uptime."""
    if "status" in ending:
        response = Response(ending["status"], "", Headers(ending["headers"]), ending["body"].encode())
        return ending["status"], advice(response), 0
    return ending.get("close", 1006), ending.get("reason", ""), ending.get("uptime", 0)


def test_the_sample_draws_its_waits():
    names = {}
    exec(BLOCKS["python"], names)
    assert len({names["Client"]().ended(1006, "", 60) for _ in range(10)}) > 1
