"""Where messages go: the plain webhook, and the addresses of apprise. They hold secrets; only masked names get out.

Nothing here waits for long by its own will, but a server can drag an answer out: call `send` from a thread that
nobody waits for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from nightschool import __version__
from nightschool.errors import NightschoolError
from nightschool.telling.message import Message
from nightschool.words import escape

SECONDS = 10.0
"""A server that says nothing for so long has failed."""
EXTRA = "pip install 'nightschool[notify]'"


class SendError(NightschoolError):
    """A message did not arrive. The text says why, and has nothing of the address that may be secret."""


class Wanted(Protocol):
    """The settings [notify], so far as they name addresses."""

    @property
    def urls(self) -> list[str]:
        """Addresses as apprise writes them."""
        ...

    @property
    def webhook(self) -> str | None:
        """An http or https address."""
        ...


class Target(Protocol):
    """Somewhere that messages go to."""

    @property
    def name(self) -> str:
        """For people: which setting it is, without secrets."""
        ...

    @property
    def key(self) -> str:
        """For the ledger: tells this address from others, and does not give it away."""
        ...

    def send(self, message: Message) -> None:
        """Send it now. Raises SendError."""
        ...


def targets_of(settings: Wanted, seconds: float = SECONDS) -> list[Target]:
    """All targets that are set, each once."""
    found: dict[str, Target] = {}
    for number, url in enumerate(settings.urls, start=1):
        found.setdefault(key_of(url), Apprise(url, number))
    if settings.webhook:
        found.setdefault(key_of(f"webhook {settings.webhook}"), Webhook(settings.webhook, seconds))
    return list(found.values())


def key_of(url: str) -> str:
    """Eight characters: too few to try passwords against, enough to tell a handful of addresses apart."""
    return hashlib.blake2s(url.encode("utf-8", "replace"), digest_size=4).hexdigest()


def scrubbed(text: object, url: str, public: tuple[str, ...] = ()) -> str:
    """`text` as a line without any part of `url`, except those in `public`."""
    plain = escape(text).replace(url, "***")
    scheme, _, rest = url.rpartition("://")
    parts = {part for piece in re.split(r"[/:@?&=#,;]", rest) for part in (piece, urllib.parse.unquote(piece))}
    parts |= {escape(part) for part in parts} | set(re.findall(r"\w{5,}", f"{rest} {urllib.parse.unquote(rest)}"))
    for part in sorted(parts - {"", scheme, *public}, key=len, reverse=True):
        # Of short ones only whole words: a password `a` must not blank out every letter.
        pattern = re.escape(part) if len(part) > 3 else rf"(?<!\w){re.escape(part)}(?!\w)"
        plain = re.sub(pattern, "***", plain, flags=re.IGNORECASE)
    return plain


@dataclass(frozen=True)
class Webhook:
    """An address that gets each message as JSON, by POST."""

    url: str
    seconds: float = SECONDS

    @property
    def key(self) -> str:
        """See Target."""
        return key_of(f"webhook {self.url}")

    @property
    def name(self) -> str:
        """See Target. Of the address only the host: the path may be what is secret."""
        parts = self._parts()
        return f"notify.webhook ({parts.scheme}://{parts.host}/...)" if parts else "notify.webhook"

    def send(self, message: Message) -> None:
        """Any answer of the 200s is success. Redirects are not followed: the address is the one its owner set."""
        parts = self._parts()
        if parts is None:
            raise SendError("The address is no http:// or https:// address. Set notify.webhook to one.")
        headers = {"Content-Type": "application/json", "User-Agent": f"nightschool/{__version__}"}
        if parts.login is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(parts.login.encode()).decode()}"
        try:
            data = json.dumps(message.to_dict(), ensure_ascii=False, allow_nan=False).encode()
            request = urllib.request.Request(parts.bare, data=data, headers=headers, method="POST")
            # The answer's body is not read: nobody needs it, and it could be endless.
            with urllib.request.build_opener(_Strict).open(request, timeout=self.seconds):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            raise SendError(_answered(error.code)) from None
        except Exception as error:
            # Of any kind, since what a server answers can trip up a parser; and such errors quote the address.
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise SendError(f"The server did not answer within {self.seconds:g} s.") from None
            text = type(reason).__name__
            if isinstance(reason, OSError) and reason.strerror:
                text = scrubbed(reason.strerror, self.url, (parts.host, *parts.host.split(":")))
            raise SendError(f"It could not be sent: {text}.") from None

    def _parts(self) -> _Parts | None:
        try:
            found = urllib.parse.urlsplit(self.url)
            host, port = found.hostname, found.port
        except ValueError:
            return None
        if found.scheme not in ("http", "https") or not host or re.search(r"[\x00-\x20\x7f]", self.url):
            return None
        where = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
        login = None
        if "@" in found.netloc:
            login = ":".join(urllib.parse.unquote(part or "") for part in (found.username, found.password))
        return _Parts(found.scheme, where, login, found._replace(netloc=where, fragment="").geturl())


@dataclass(frozen=True)
class _Parts:
    scheme: str
    host: str
    login: str | None
    bare: str


class _Strict(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none."""


def _answered(code: int) -> str:
    try:
        phrase = f" {HTTPStatus(code).phrase}"
    except ValueError:
        phrase = ""
    more = " Redirects are not followed: set the address that it leads to." if 300 <= code < 400 else ""
    return f"The server answered {code}{phrase}.{more}"


@dataclass(frozen=True)
class Apprise:
    """An address as apprise writes it: mail, chat, push. `number` is its place in notify.urls."""

    url: str
    number: int

    @property
    def key(self) -> str:
        """See Target."""
        return key_of(self.url)

    @property
    def name(self) -> str:
        """See Target. Of the address only the service: in many of them even the host is a token."""
        scheme = re.match(r"[A-Za-z0-9+.-]{1,20}(?=://)", self.url)
        return f"notify.urls, number {self.number}" + (f" ({scheme[0].lower()}://...)" if scheme else "")

    def send(self, message: Message) -> None:
        """By apprise; why it did not work is what apprise's log says in this thread."""
        with _Heard() as heard:
            try:
                import apprise
            except ImportError:
                raise SendError(f"It needs apprise, which is not installed: {EXTRA}") from None
            try:
                # No pools of threads: one that hangs would keep the whole program from ending. With a limit on the time
                # of a service there would be one.
                asset = apprise.AppriseAsset(app_id="nightschool", app_desc="nightschool", async_mode=False)
                asset._service_timeout = 0
                plugin = apprise.Apprise.instantiate(self.url, asset=asset)
                if plugin is None:
                    raise SendError("apprise does not know this kind of address, or a part of it is missing.")
                kinds = {"trouble": apprise.NotifyType.WARNING, "well": apprise.NotifyType.SUCCESS}
                sender = apprise.Apprise(asset=asset)
                sender.add(plugin)
                done = sender.notify(
                    title=message.title,
                    body=message.text,
                    body_format=apprise.NotifyFormat.TEXT,
                    notify_type=kinds.get(message.kind, apprise.NotifyType.INFO),
                )
            except SendError:
                raise
            except Exception as error:
                text = scrubbed(f"{type(error).__name__}: {error}", self.url)
                raise SendError(f"apprise failed: {text}.") from None
        if not done:
            why = scrubbed(heard.last or "it does not say why", self.url)
            raise SendError(f"apprise could not send it: {why.rstrip('.')}.")


class _Heard(logging.Handler):
    """What apprise logs in this thread while it is at work. None of it goes anywhere else: there are secrets in it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.last = ""
        self._thread = threading.get_ident()

    def __enter__(self) -> _Heard:
        for name in ("apprise", "urllib3"):
            logger = logging.getLogger(name)
            logger.propagate = False
            # Without any handler, warnings would go to standard error.
            if not logger.handlers:
                logger.addHandler(logging.NullHandler())
        logging.getLogger("apprise").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("apprise").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first warning: what follows it is less exact."""
        if record.thread == self._thread and record.levelno >= logging.WARNING and not self.last:
            self.last = record.getMessage()
