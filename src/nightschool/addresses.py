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
    name = host.strip().lower()
    if name.startswith("["):
        name, bracket, port = name[1:].partition("]")
        if not bracket or (port and not port.removeprefix(":").isdigit()):
            return False
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    return is_loopback(name)
