"""Who may ask the page for what. Pure: a request's head goes in, and why it is refused comes out.

A browser runs pages of others beside ours, and any of them can make it send requests here: under a name that was made
to lead here, from their own address, or with a form. What they cannot do is say another Host, Origin or Sec-Fetch-Site
than the browser gives, nor send JSON without being asked for leave that is never given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nightschool.addresses import is_loopback, name_and_port, same_address

READING = ("GET", "HEAD")
BODIES = ("application/json", "application/octet-stream")
"""A form can send neither, and a script of another origin only after leave."""
API = "/api/"
SIGN_IN = "/sign-in"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Rules:
    """What is let in.

    Attributes:
        bound: the address that was asked to listen on.
        hosts: further names by which the page may be called, with or without a port.
        head_bytes: the longest head of a request.
    """

    bound: str = "127.0.0.1"
    hosts: Sequence[str] = ()
    head_bytes: int = 32_768


@dataclass(frozen=True)
class Asked:
    """The head of a request.

    Attributes:
        method, path: as sent, the path without its query.
        headers: by name in lower case, all values of each.
        arrived_at: the address of this machine that the connection came to; "" where it is not known.
        size: of all of the head, in bytes.
    """

    method: str
    path: str
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    arrived_at: str = ""
    size: int = 0

    def one(self, name: str) -> str | None:
        """A header; None where it is not there."""
        values = self.headers.get(name)
        return values[0] if values else None


@dataclass(frozen=True)
class Refusal:
    """Why not: the status, a sentence, and a word for programs."""

    status: int
    error: str
    kind: str


def refusal(rules: Rules, asked: Asked) -> Refusal | None:
    """Why a request is refused; None where it is let in."""
    if asked.size > rules.head_bytes:
        return Refusal(431, f"No head of a request is longer than {rules.head_bytes:,} bytes.", "too much")
    return _foreign_name(rules, asked) or _foreign_page(asked) or _body_of_a_form(asked)


def _foreign_name(rules: Rules, asked: Asked) -> Refusal | None:
    given = asked.headers.get("host", ())
    if len(given) == 1 and _known(given[0], rules, asked.arrived_at):
        return None
    return Refusal(
        403,
        "This address answers only to its own name. To reach it by another one, add that to page.allowed_hosts.",
        "host",
    )


def _known(host: str, rules: Rules, arrived_at: str) -> bool:
    found = name_and_port(host)
    if found is None:
        return False
    name, port = found
    if is_loopback(name):
        return True
    if any(allowed.lower() in (name, f"{name}:{port}", f"[{name}]", f"[{name}]:{port}") for allowed in rules.hosts):
        return True
    # Where others reach it: by its name or its address. A name that was made to lead here is neither.
    return not is_loopback(rules.bound) and (name == rules.bound.lower() or same_address(name, arrived_at))


def _foreign_page(asked: Asked) -> Refusal | None:
    origin, site = asked.headers.get("origin", ()), asked.one("sec-fetch-site")
    reading = asked.method in READING
    same = all(_is_own(one, asked.one("host") or "") for one in origin)
    if same and (site in (None, "same-origin") or (site == "none" and reading)):
        return None
    # A link on another page may lead here: it shows the page to the person, and nothing to that other page.
    followed = asked.one("sec-fetch-mode") == "navigate" and asked.one("sec-fetch-dest") == "document"
    if same and reading and followed and not asked.path.startswith(API):
        return None
    return Refusal(403, "This was asked for by a page of another address, which may not.", "origin")


def _is_own(origin: str, host: str) -> bool:
    scheme, _, where = origin.partition("://")
    return scheme in ("http", "https") and where.lower() == host.strip().lower()


def _body_of_a_form(asked: Asked) -> Refusal | None:
    if asked.method in READING:
        return None
    given = asked.headers.get("content-type", ())
    bare = not given and asked.one("transfer-encoding") is None and (asked.one("content-length") or "0") == "0"
    # The one form there is: it works without scripts, and who sends it from elsewhere must know the token.
    taken = (FORM,) if asked.path == SIGN_IN else BODIES
    if bare or (len(given) == 1 and content_type(given[0]) in taken):
        return None
    return Refusal(415, "Send JSON, with `Content-Type: application/json`.", "content type")


def content_type(header: str) -> str:
    """The type in a Content-Type header, without what follows it."""
    return header.partition(";")[0].strip().lower()
