"""Which network addresses ragtune may send to of its own accord, and which it believes.

A name is resolved once and what is connected to is the address that was looked at: a name that means another address a
moment later (DNS rebinding) changes nothing. Knows nothing of what is sent.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from data.errors import InvalidRequest

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address that a gateway sends to."""
_LAST_32 = 0xFFFFFFFF


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a comma-separated list; an address is the network of itself.

    Raises:
        ValueError: one is none.
    """
    return tuple(ip_network(each.strip(), strict=False) for each in text.split(",") if each.strip())


def is_within(address: str, networks: Sequence[Network]) -> bool:
    """Tell whether an address lies in one of ``networks``; what is no address lies in none."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(each in network for each in (found, *_embedded(found)) for network in networks)


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the open internet, and so are the IPv4 addresses that it embeds."""
    return all(each.is_global and not each.is_multicast for each in (address, *_embedded(address)))


def _embedded(address: Address) -> tuple[Address, ...]:
    if isinstance(address, IPv4Address):
        return ()
    teredo = address.teredo or ()
    nat64 = IPv4Address(int(address) & _LAST_32) if address in _NAT64 else None
    return tuple(each for each in (address.ipv4_mapped, address.sixtofour, nat64, *teredo) if each is not None)


def check_url(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL that something may be sent to.

    Raises:
        InvalidRequest: it is no http(s) URL, or has a name and a password in it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        if not parts.hostname or parts.username is not None or parts.password is not None or len(url) > 2000:
            raise KeyError
        parts.hostname.encode("idna")
    except (KeyError, ValueError) as error:
        raise InvalidRequest(
            "This is no URL that can be called", got=url[:200], wanted="http(s)://host/path without name and password"
        ) from error
    return parts.hostname, port


def resolve(host: str, port: int, allowed: Sequence[Network] = ()) -> str:
    """Return the address to connect to for ``host``.

    Raises:
        InvalidRequest: it has none, or one of them is neither public nor in ``allowed``.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidRequest("This host has no address", got=host, wanted="a name that can be resolved") from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    for address in addresses:
        if not is_public(ip_address(address)) and not is_within(address, allowed):
            raise InvalidRequest(
                "This host has a private address, to which nothing is sent",
                got=f"{host} ({address})" if host != address else host,
                wanted="a public address",
                hint="Whoever runs the service can allow networks: RAGTUNE_WEBHOOK_NETWORKS=10.1.0.0/16",
            )
    return addresses[0]
