"""Which addresses a webhook may call. A tenant names the url and the courier calls it from inside, so that without this an
url would be a way to whatever the courier can reach (server-side request forgery).

Twice: ``Guard.parse`` when a url is given (what its text says), and ``Guard.permit`` when it is called (where its name leads
at that moment), after which the connection goes to the very addresses that were looked at.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_URL = 2048
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PORT = r"(443|102[4-9]|10[3-9]\d|1[1-9]\d\d|[2-9]\d{3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"
_TARGET = r"([/?][A-Za-z0-9._~:/?@!$&'()*+,;=%-]*)?"
PUBLIC_URL = rf"^https://({_LABEL}\.)+(xn--[A-Za-z0-9-]{{1,59}}|[A-Za-z]{{2,63}})(:{_PORT})?{_TARGET}$"
"""A url that anybody may give: https, a full name, port 443 or one from 1024. ECMA-262 and Python read it alike."""

_PARTS = re.compile(
    rf"(?P<scheme>https?)://(?P<host>\[[^\]]*\]|[^/?:@\[\]]*)(:(?P<port>[0-9]{{1,5}}))?(?P<target>{_TARGET})", re.ASCII
)
_NAME = re.compile(rf"({_LABEL}\.)*{_LABEL}", re.ASCII)
_NUMERIC = re.compile(r"(\d+|0[xX][0-9a-fA-F]*)\Z", re.ASCII)
_PRIVATE_NAMES = ("localhost", "local", "internal", "home.arpa", "localdomain")

_REFUSED: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        # IANA's special-purpose registries, and what clouds keep for themselves among the public ones.
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's host
        "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
    )
)  # fmt: skip
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedUrlError(ValueError):
    """This url may not be called. The text says why, and may be shown to who gave it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A url in its parts. ``host`` is a name in lower case, or an address without brackets."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str

    @property
    def address(self) -> Address | None:
        """The address that the url spells; None where it has a name."""
        return _address(self.host)

    @property
    def authority(self) -> str:
        """As it goes into a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


def public(address: Address) -> bool:
    """Whether an address is one of the public internet. Of an IPv6 address that stands for an IPv4 one (mapped, NAT64), the
    IPv4 one counts; 6to4 and Teredo, which would tunnel, are refused."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = address.ipv4_mapped or (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None)
        if inner is not None:
            return public(inner)
        if address not in _GLOBAL_V6:
            return False
    elif address.is_reserved or address.is_multicast:
        return False
    return address.is_global and not any(address in network for network in _REFUSED)


@dataclass(frozen=True, slots=True)
class AllowList:
    """Receivers that an operator trusts: names (with a port or any), and networks (with a port or any)."""

    names: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[tuple[Network, int | None], ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """Entries: ``host``, ``host:port``, an address, ``address:port``, ``[v6]:port``, a CIDR.

        Raises: ValueError, naming the entry.
        """
        names: set[tuple[str, int | None]] = set()
        networks: list[tuple[Network, int | None]] = []
        for entry in entries:
            host, port = _host_and_port(entry)
            try:
                networks.append((ipaddress.ip_network(host), port))
            except ValueError:
                if not _NAME.fullmatch(host) or _NUMERIC.fullmatch(host.rpartition(".")[2]):
                    raise ValueError(f"{entry!r} is no host, host:port or CIDR") from None
                names.add((host.lower(), port))
        return cls(frozenset(names), tuple(networks))

    def has_name(self, host: str, port: int) -> bool:
        return (host, None) in self.names or (host, port) in self.names

    def has_address(self, address: Address, port: int) -> bool:
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        return any(address in network and its_port in (None, port) for network, its_port in self.networks)


def _host_and_port(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?|([^:]+):(\d{1,5})", entry, re.ASCII)
    if match is None:
        return entry, None
    port = int(match[2] or match[4]) if match[2] or match[4] else None
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"{entry!r}: the port is none")
    return match[1] or match[3], port


@dataclass(frozen=True, slots=True)
class Guard:
    """Decides with an allow-list."""

    allowed: AllowList = AllowList()

    def parse(self, url: str) -> Target:
        """A url in its parts, where its text alone does not forbid it.

        Raises: RefusedUrlError.
        """
        if not 0 < len(url) <= LONGEST_URL:
            raise RefusedUrlError(f"A url has 1 to {LONGEST_URL} characters")
        match = _PARTS.fullmatch(url)
        if match is None:
            raise RefusedUrlError(
                "Should be https://host[:port][/path][?query]: plain ASCII, no user or password, no fragment"
            )
        target = _target(match)
        if not self._may_be_allowed(target):
            _require_public(target)
        return target

    def _may_be_allowed(self, target: Target) -> bool:
        """Whether the allow-list speaks for it; of a name that it does not have, only its addresses will tell."""
        if self.allowed.has_name(target.host, target.port):
            return True
        address = target.address
        if address is not None:
            return self.allowed.has_address(address, target.port)
        return any(port in (None, target.port) for _, port in self.allowed.networks)

    def permit(self, target: Target, addresses: Sequence[str]) -> tuple[Address, ...]:
        """The addresses to connect to, of those that the target's name leads to now.

        One that is forbidden forbids them all: who answers so is not to be trusted with the choice. Plain http and odd ports
        need every address to be allow-listed.

        Raises: RefusedUrlError.
        """
        found = tuple(_address(text) for text in addresses)
        if not found or None in found:
            raise RefusedUrlError("The name leads to no address that could be called")
        known = tuple(address for address in found if address is not None)
        if self.allowed.has_name(target.host, target.port):
            return known
        if all(self.allowed.has_address(address, target.port) for address in known):
            return known
        if not all(public(address) or self.allowed.has_address(address, target.port) for address in known):
            raise RefusedUrlError("The host's address is not one of the public internet")
        _require_public(target)
        return known


def _target(match: re.Match[str]) -> Target:
    scheme: Literal["http", "https"] = "https" if match["scheme"] == "https" else "http"
    host = match["host"].lower()
    if host.startswith("["):
        host = host[1:-1]
        address = _address(host)
        if not isinstance(address, ipaddress.IPv6Address) or address.scope_id is not None:
            raise RefusedUrlError("The host in brackets is no IPv6 address (without a zone)")
        host = str(address)
    elif _NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2]):
        # Resolvers read 127.1, 0177.0.0.1, 0x7f000001 and 2130706433 alike; one notation is enough for everybody.
        if not isinstance(_address(host), ipaddress.IPv4Address):
            raise RefusedUrlError("An IPv4 address is written as four decimal numbers")
    elif not _NAME.fullmatch(host):
        raise RefusedUrlError("The host is no name (of letters, digits, hyphens; without a dot at its end)")
    port = int(match["port"] or (443 if scheme == "https" else 80))
    if not 1 <= port <= 65535:
        raise RefusedUrlError("The port is none")
    path = match["target"] or "/"
    return Target(scheme, host, port, path if path.startswith("/") else f"/{path}")


def _require_public(target: Target) -> None:
    """Raises: RefusedUrlError."""
    if target.scheme != "https":
        raise RefusedUrlError("The url should be https")
    if target.port != 443 and target.port < 1024:
        raise RefusedUrlError("The port should be 443, or one from 1024")
    address = target.address
    if address is not None:
        if not public(address):
            raise RefusedUrlError("The address is not one of the public internet")
    elif "." not in target.host or target.host.endswith(tuple(f".{name}" for name in _PRIVATE_NAMES)):
        raise RefusedUrlError("The host is not a name of the public internet")


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
