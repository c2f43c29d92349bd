"""Addresses that a server here listens on, and the names that requests to it may give. Imports next to nothing."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can connect to what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_local_name(host: str) -> bool:
    """Whether a Host header names this machine itself: `localhost` or a loopback address, with or without a port."""
    found = name_and_port(host)
    return found is not None and is_loopback(found[0])


def name_and_port(host: str) -> tuple[str, str] | None:
    """The name of a Host header in lower case, without brackets, and its port, "" if none; None where it is not one."""
    name, port = host.strip().lower(), ""
    if name.startswith("["):
        name, bracket, port = name[1:].partition("]")
        if not bracket or (port and not port.removeprefix(":").isdigit()):
            return None
        port = port.removeprefix(":")
    elif name.count(":") == 1:
        name, _, port = name.partition(":")
    return name, port


def same_address(one: str, other: str) -> bool:
    """Whether two texts are the same IP address, however they write it; IPv4 within IPv6 is IPv4."""
    try:
        return _plain(one) == _plain(other)
    except ValueError:
        return False


def url(host: str, port: int) -> str:
    """`http://host:port`, with brackets around an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
