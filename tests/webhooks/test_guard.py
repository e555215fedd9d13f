"""Every forbidden form of a url and of an address is refused; and what may be called is not."""

from __future__ import annotations

import ipaddress
import re

import pytest

from shared.addresses import PUBLIC_URL, AllowList, Guard, RefusedUrlError, public

GUARD = Guard()

GOOD = [
    "https://example.com", "https://example.com/", "https://hooks.shop.example.com/a/b?c=d&e=%20", "https://example.com?x=1",
    "https://EXAMPLE.com/Path", "https://example.com:443/", "https://example.com:8443/hook", "https://example.com:65535",
    "https://xn--fsqu00a.xn--0zwm56d/", "https://a.xn--p1ai", "https://1.example.com", "https://example.com/a;b;c",
    "https://ab--c.example.com/~x/(y)!$'*,@:", "https://example.com:1024",
]  # fmt: skip

PUBLIC_LITERALS = ["https://8.8.8.8/", "https://93.184.216.34:8443/x", "https://[2606:4700:4700::1111]/"]

BAD = [
    # not a url of ours
    "", "x", "example.com", "//example.com", "https:/example.com", "https://", "https:///path", "https://?q", "https://:443",
    "ftp://example.com", "file:///etc/passwd", "gopher://example.com", "javascript:alert(1)", "HTTPS//example.com",
    "https://example.com#fragment", "https://example.com/#", " https://example.com", "https://example.com ",
    "https://exa mple.com", "https://example.com/a b", "https://example.com\\@127.0.0.1/", "https://example.com\\.evil.org",
    "https://example.com/\n", "https://example.com/\r\nHost: x", "https://example.com/\x00", "https://example.com/\u00e9",
    "https://ex\u00e4mple.com", "https://\uff45xample.com", "https://example\u3002com", "https://\u2460\u2461\u2466.0.0.1/",
    "https://example.com/" + "x" * 2048,
    # scheme
    "http://example.com", "http://example.com:8443/", "wss://example.com",
    # userinfo
    "https://user@example.com", "https://user:pass@example.com", "https://@example.com", "https://:@example.com",
    "https://example.com@127.0.0.1/", "https://127.0.0.1@example.com/",
    # ports
    "https://example.com:0", "https://example.com:22", "https://example.com:25", "https://example.com:80",
    "https://example.com:444", "https://example.com:1023", "https://example.com:65536", "https://example.com:99999",
    "https://example.com:", "https://example.com:x", "https://example.com:-1", "https://example.com:+443",
    "https://example.com:443:443", "https://example.com:\u0664\u0664\u0663",
    # names
    "https://localhost", "https://localhost:8443/", "https://redis", "https://api/", "https://a.localhost", "https://x.local",
    "https://metadata.google.internal/", "https://x.home.arpa", "https://localhost.localdomain", "https://example.com./",
    "https://localhost./", "https://.example.com", "https://example..com", "https://-a.example.com", "https://a-.example.com",
    "https://" + "a" * 64 + ".com", "https://exa_mple.com", "https://%6cocalhost/", "https://127.0.0.1%2f@x.com/",
    # IPv4, in every notation that some resolver reads
    "https://127.0.0.1", "https://127.0.0.1:8443/", "https://127.1", "https://127.0.1", "https://2130706433",
    "https://0x7f000001", "https://0X7F.0x0.0x0.0x1", "https://0x7f.1", "https://017700000001", "https://0177.0.0.1",
    "https://0177.0.0.01", "https://127.0.0.1.", "https://127.0.0.1..", "https://0", "https://0.0.0.0", "https://0x0",
    "https://00.00.00.00", "https://127.0.0.256", "https://127.0.0.1.1", "https://1.2.3", "https://08.8.8.8",
    "https://0x08080808", "https://134744072", "https://8.8.8.8.", "https://256.8.8.8", "https://1e3.0.0.1x.1",
    "https://10.0.0.1", "https://10.255.255.255", "https://172.16.0.1", "https://172.31.255.255", "https://192.168.1.1",
    "https://169.254.169.254/latest/meta-data/", "https://0xa9fea9fe", "https://2852039166", "https://0251.0376.0251.0376",
    "https://100.64.0.1", "https://100.100.100.200", "https://198.18.0.1", "https://198.19.255.255", "https://192.0.0.1",
    "https://192.0.2.1", "https://198.51.100.1", "https://203.0.113.1", "https://192.88.99.1", "https://224.0.0.1",
    "https://239.255.255.255", "https://240.0.0.1", "https://255.255.255.255", "https://168.63.129.16",
    # IPv6
    "https://[::1]", "https://[::1]:8443/", "https://[0:0:0:0:0:0:0:1]/", "https://[::]", "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]", "https://[0:0:0:0:0:ffff:10.0.0.1]", "https://[::ffff:169.254.169.254]",
    "https://[::127.0.0.1]", "https://[::7f00:1]", "https://[64:ff9b::127.0.0.1]", "https://[64:ff9b::a9fe:a9fe]",
    "https://[64:ff9b:1::10.0.0.1]", "https://[64:ff9b:1::8.8.8.8]", "https://[2002:7f00:1::]", "https://[2002:808:808::1]",
    "https://[2001::1]", "https://[2001:0:7f00:1::]", "https://[fe80::1]", "https://[fe80::1%25eth0]", "https://[fe80::1%eth0]",
    "https://[2606:4700:4700::1111%25eth0]", "https://[fc00::1]", "https://[fd00:ec2::254]", "https://[fec0::1]",
    "https://[ff02::1]", "https://[ff0e::1]", "https://[2001:db8::1]", "https://[100::1]", "https://[3fff::1]",
    "https://[::ffff:0:127.0.0.1]", "https://[5f00::1]", "https://[v1.x]", "https://[127.0.0.1]", "https://[]", "https://[::1",
    "https://::1/", "https://2606:4700:4700::1111/", "https://[::1].example.com",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD + PUBLIC_LITERALS)
def test_what_may_be_called(url: str) -> None:
    assert GUARD.parse(url).scheme == "https"


@pytest.mark.parametrize("url", BAD, ids=ascii)
def test_what_may_not(url: str) -> None:
    with pytest.raises(RefusedUrlError):
        GUARD.parse(url)


def test_the_documented_pattern_says_the_same() -> None:
    pattern = re.compile(PUBLIC_URL.strip("^$"), re.ASCII)
    assert all(pattern.fullmatch(url) for url in GOOD)
    private_names = [url for url in BAD if pattern.fullmatch(url)]
    assert private_names == [  # a pattern cannot say these; neither can a length
        "https://example.com/" + "x" * 2048, "https://a.localhost", "https://x.local", "https://metadata.google.internal/",
        "https://x.home.arpa", "https://localhost.localdomain",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("https://A.Example.com", "a.example.com", 443, "/", "a.example.com"),
        ("https://example.com:8443?x=1", "example.com", 8443, "/?x=1", "example.com:8443"),
        ("https://example.com/a;b?c=/d?e", "example.com", 443, "/a;b?c=/d?e", "example.com"),
        (
            "https://[2606:4700:4700:0::1111]:8443/",
            "2606:4700:4700::1111",
            8443,
            "/",
            "[2606:4700:4700::1111]:8443",
        ),
    ],
)
def test_the_parts(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = GUARD.parse(url)
    assert (target.host, target.port, target.path, target.authority) == (host, port, path, authority)


BAD_ADDRESSES = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1",
    "172.31.255.254", "192.0.0.8", "192.0.2.9", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.7", "203.0.113.7",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "::", "::1", "::ffff:127.0.0.1",
    "::ffff:192.168.0.1", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "2001::1",
    "2001:db8::1", "2002:a00:1::", "2002:808:808::", "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0", "fc00::1", "fd12::1",
    "fec0::1", "ff02::1", "ff0e::1", "100::1", "3fff::1", "5f00::1", "8000::1",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_an_address_that_is_not_public(text: str) -> None:
    assert not public(ipaddress.ip_address(text))
    target = GUARD.parse("https://example.com/")
    for addresses in ([text], ["93.184.216.34", text], [text, "93.184.216.34"]):
        with pytest.raises(RefusedUrlError):
            GUARD.permit(target, addresses)


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"]
)
def test_an_address_that_is_public(text: str) -> None:
    assert public(ipaddress.ip_address(text))
    assert GUARD.permit(GUARD.parse("https://example.com/"), [text]) == (ipaddress.ip_address(text),)


def test_a_name_that_leads_nowhere() -> None:
    with pytest.raises(RefusedUrlError):
        GUARD.permit(GUARD.parse("https://example.com/"), [])


ALLOWED = Guard(
    AllowList.parse(["127.0.0.1:9000", "10.0.0.0/8", "hooks.corp", "gate.corp:8080", "[::1]:9000", "fd00::/8"])
)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://127.0.0.1:9000/x", ["127.0.0.1"]),
        ("https://127.0.0.1:9000/x", ["127.0.0.1"]),
        ("http://[::1]:9000/", ["::1"]),
        ("http://10.1.2.3/", ["10.1.2.3"]),
        ("http://10.1.2.3:22/", ["10.1.2.3"]),
        ("http://[fd00::5]:81/", ["fd00::5"]),
        ("http://hooks.corp/", ["192.168.0.1"]),  # the name itself is trusted, wherever it leads
        ("http://hooks.corp:81/", ["192.168.0.1", "93.184.216.34"]),
        ("http://gate.corp:8080/", ["172.16.0.1"]),
        ("http://other.corp/", ["10.9.9.9"]),  # a name that leads into an allowed network
        ("http://redis:1/", ["10.9.9.9", "::ffff:10.9.9.8"]),
        ("https://example.com/", ["93.184.216.34", "10.9.9.9"]),
    ],
)
def test_what_the_allow_list_lets_through(url: str, addresses: list[str]) -> None:
    assert len(ALLOWED.permit(ALLOWED.parse(url), addresses)) == len(addresses)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://127.0.0.1:9001/x", []),
        ("https://192.168.0.1/", []),
        ("http://127.1:9000/", []),
        ("http://2130706433:9000/", []),
        ("http://user@127.0.0.1:9000/", []),
        ("http://example.com/", ["93.184.216.34"]),  # plain http only to the allow-listed
        ("http://example.com/", ["10.0.0.1", "93.184.216.34"]),
        ("https://example.com:25/", ["93.184.216.34"]),
        ("http://gate.corp:8081/", ["172.16.0.1"]),
        ("https://example.com/", ["10.9.9.9", "192.168.0.1"]),
        ("http://other.corp/", ["127.0.0.1"]),
    ],
)
def test_what_it_does_not(url: str, addresses: list[str]) -> None:
    def call() -> None:
        ALLOWED.permit(ALLOWED.parse(url), addresses)

    with pytest.raises(RefusedUrlError):
        call()


@pytest.mark.parametrize(
    "entry", ["", "a b", "http://x", "10.0.0.1/8", "10.0.0.0/33", "x:", "x:y", "127.1", "0x7f", "-a", "*"]
)
def test_a_wrong_entry_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(entry))):
        AllowList.parse(["localhost", entry])
