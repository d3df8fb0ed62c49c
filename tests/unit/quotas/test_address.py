"""Whose address a handshake is counted under, whatever its headers say."""

from ipaddress import ip_network

import pytest

from channels_admission.conf.proxies import Proxies
from channels_admission.quotas import address
from channels_admission.quotas.address import LONGEST_HEADER, MOST_HOPS, client_of, parse

PROXY, CLIENT, SPOOF = "10.0.0.1", "198.51.100.7", "203.0.113.9"
BEHIND = Proxies(networks=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
LONG = "a" * LONGEST_HEADER
ONE, TWO = Proxies(hops=1), Proxies(hops=2)
NOBODY = Proxies()

XFF, FORWARDED = b"x-forwarded-for", b"forwarded"


def scope(client, *headers):
    made = {"type": "websocket", "headers": [(name, value.encode("latin-1")) for name, value in headers]}
    return made if client is None else {**made, "client": client}


def case(name, expected, proxies, client, *headers):
    return pytest.param(expected, proxies, scope(client, *headers), id=name)


@pytest.mark.parametrize(
    ("expected", "proxies", "scope"),
    [
        case("headers of an untrusted peer", CLIENT, BEHIND, (CLIENT, 1), (XFF, SPOOF)),
        case("headers while no proxy is trusted", PROXY, NOBODY, (PROXY, 1), (XFF, SPOOF), (FORWARDED, f"for={SPOOF}")),
        case("one proxy by network", CLIENT, BEHIND, (PROXY, 1), (XFF, CLIENT)),
        case("a client that writes before the proxy", CLIENT, BEHIND, (PROXY, 1), (XFF, f"{SPOOF}, {CLIENT}")),
        case("a client that claims to be a proxy", CLIENT, BEHIND, (PROXY, 1), (XFF, f"{SPOOF}, 10.9.9.9, {CLIENT}")),
        case("a chain of proxies", CLIENT, BEHIND, (PROXY, 1), (XFF, f"{SPOOF}, {CLIENT}, 10.0.0.3, 10.0.0.2")),
        case("several lines", CLIENT, BEHIND, (PROXY, 1), (XFF, SPOOF), (XFF, CLIENT)),
        case("one proxy by number", CLIENT, ONE, (PROXY, 1), (XFF, f"{SPOOF}, {CLIENT}")),
        case("two proxies by number", CLIENT, TWO, ("192.0.2.5", 1), (XFF, f"{SPOOF}, {CLIENT}, 192.0.2.6")),
        case("fewer hops than proxies", CLIENT, TWO, (PROXY, 1), (XFF, CLIENT)),
        case("a port", CLIENT, BEHIND, (PROXY, 1), (XFF, f"{SPOOF}, {CLIENT}:4711")),
        case("IPv6 in brackets with a port", "2001:db8:1:2::/64", BEHIND, (PROXY, 1), (XFF, "[2001:db8:1:2:a::9]:443")),
        case("IPv6 with a zone", "fe80::/64", BEHIND, (PROXY, 1), (XFF, "fe80::1%eth0")),
        case("a peer with a zone", "fe80::/64", NOBODY, ("fe80::1%eth0", 1)),
        case("IPv4 mapped into IPv6", CLIENT, BEHIND, ("::ffff:10.0.0.1", 1), (XFF, f"::ffff:{CLIENT}")),
        case("an empty header", PROXY, BEHIND, (PROXY, 1), (XFF, "")),
        case("empty elements", CLIENT, BEHIND, (PROXY, 1), (XFF, f" , ,{CLIENT}, ")),
        case("more hops than anybody has", PROXY, BEHIND, (PROXY, 1), (XFF, ",".join([CLIENT] * (MOST_HOPS + 1)))),
        case("10 kB of addresses", PROXY, BEHIND, (PROXY, 1), (XFF, ",".join([SPOOF] * 900))),
        case("10 kB of one word", PROXY, BEHIND, (PROXY, 1), (XFF, "a" * 10_000)),
        case("10 kB before the client", CLIENT, BEHIND, (PROXY, 1), (XFF, f"{'a' * 10_000}, {CLIENT}")),
        case("ten lines before the client", CLIENT, BEHIND, (PROXY, 1), *[(XFF, "a" * 1000)] * 10, (XFF, CLIENT)),
        case("an address cut in two", PROXY, TWO, (PROXY, 1), (XFF, f"1{CLIENT},{LONG[len(CLIENT) + 1 :]}")),
        case("no address", PROXY, BEHIND, (PROXY, 1), (XFF, "unknown")),
        case("markup", PROXY, ONE, (PROXY, 1), (XFF, "<script>alert(1)</script>")),
        case("a word under a trusted address", PROXY, BEHIND, (PROXY, 1), (XFF, f"{CLIENT}, unknown, 10.0.0.2")),
        case("a Unix socket", None, NOBODY, None, (XFF, SPOOF)),
        case("a Unix socket, by network", None, BEHIND, None, (XFF, SPOOF)),
        case("a Unix socket of a proxy, by number", CLIENT, ONE, None, (XFF, f"{SPOOF}, {CLIENT}")),
        case("a Unix socket without a header", None, ONE, None),
        case("a peer with an empty name", None, BEHIND, ["", 0], (XFF, SPOOF)),
        case("a peer that is no address", None, ONE, ("testclient", 50000), (XFF, SPOOF)),
        case("a peer as a list", CLIENT, NOBODY, [CLIENT, 1]),
        case("Forwarded", CLIENT, BEHIND, (PROXY, 1), (FORWARDED, f"for={SPOOF}, For={CLIENT};proto=https")),
        case(
            "Forwarded with quotes", "2001:db8::/64", BEHIND, (PROXY, 1),
            (FORWARDED, f'for={SPOOF}, for="[2001:db8::17]:4711"'),
        ),
        case("Forwarded with a hidden name", PROXY, BEHIND, (PROXY, 1), (FORWARDED, "for=_hidden")),
        case("Forwarded without for", PROXY, BEHIND, (PROXY, 1), (FORWARDED, "proto=https")),
        case("Forwarded with an open quote", CLIENT, BEHIND, (PROXY, 1), (FORWARDED, f'for=", for={CLIENT}')),
        case("both, and they agree", CLIENT, BEHIND, (PROXY, 1), (XFF, CLIENT), (FORWARDED, f'for="{CLIENT}:1"')),
        case("the other header from the client", PROXY, BEHIND, (PROXY, 1), (FORWARDED, f"for={SPOOF}"), (XFF, CLIENT)),
        case("proxies over IPv6", CLIENT, BEHIND, ("fd00::1", 1), (XFF, f"{CLIENT}, fd00::2")),
        case("nothing but proxies", "10.0.0.2", BEHIND, (PROXY, 1), (XFF, "10.0.0.2")),
    ],
)  # fmt: skip
def test_the_client_is(expected, proxies, scope):
    assert client_of(scope, proxies) == expected


@pytest.mark.parametrize("names", [(XFF,), (FORWARDED,), (XFF, FORWARDED)])
@pytest.mark.parametrize(("hops", "expected", "parsed"), [(MOST_HOPS, CLIENT, True), (MOST_HOPS + 1, PROXY, False)])
def test_hops_are_not_looked_at_where_there_are_too_many(monkeypatch, names, hops, expected, parsed):
    looked_at = []
    for name in ("parse", "_for"):
        real = getattr(address, name)
        monkeypatch.setattr(address, name, lambda text, real=real: looked_at.append(text) or real(text))
    prefixes = {XFF: "", FORWARDED: "for="}
    headers = [(name, ", ".join([prefixes[name] + CLIENT] * hops)) for name in names]
    assert client_of(scope((PROXY, 1), *headers), BEHIND) == expected
    assert (CLIENT in looked_at) is parsed
    assert parsed or looked_at == [PROXY]


@pytest.mark.parametrize(
    "text", ["", " ", ":80", "[::1", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.4:x", "::1::", "%eth0"]
)
def test_what_is_no_address(text):
    assert parse(text) is None


def test_addresses_of_one_site_are_one_client():
    one, two, other = (
        client_of({"client": (address, 1)}) for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    )
    assert one == two != other
