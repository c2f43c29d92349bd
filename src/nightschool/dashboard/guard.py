"""The door: every request passes it first, and every answer leaves through it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import parse_qs, quote

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nightschool.dashboard import admission
from nightschool.dashboard.admission import API, SIGN_IN, Asked, Rules
from nightschool.dashboard.answers import trouble
from nightschool.dashboard.seldom import Seldom
from nightschool.dashboard.signing_in import Key, Tries

OPEN = "/static/"
"""What is shown without the token: files that everyone has."""
FORM_BYTES = 4096
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "style-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: under that a browser says `Origin: null` of our own form, and nobody could sign in.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Lets in what may come in, and gives every answer its headers.

    Args:
        app: what is guarded.
        rules: who may ask.
        key: the token that is needed; None: none is.
        tries: counts the wrong ones.
        seldom: where refusals and accidents are told.
        form: the page to sign in, made with what is wrong ("" at first) and the path to go to afterwards.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        key: Key | None,
        tries: Tries,
        seldom: Seldom,
        form: Callable[[str, str], str],
    ) -> None:
        self._app = app
        self._rules = rules
        self._key = key
        self._tries = tries
        self._seldom = seldom
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # a websocket that is not accepted is refused
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        asked = read_head(scope)
        try:
            refused = admission.refusal(self._rules, asked)
            if refused is not None:
                answer: ASGIApp = trouble(refused.status, refused.error, refused.kind)
            else:
                answer = await self._with_token(asked, scope, receive) or self._app
            await answer(scope, receive, sending)
        except Exception as error:
            # Nothing of it may reach whoever asks, and the next request must find the page as it was.
            self._seldom.say("failed", f"The page failed at {asked.method} {asked.path}.", error)
            if started:
                raise
            said = "The page failed at this; training does not depend on it. training_output.log says more."
            await trouble(500, said, "failed")(scope, receive, sending)

    async def _with_token(self, asked: Asked, scope: Scope, receive: Receive) -> Response | None:
        """The answer to someone who has not shown the token, or shows it now; None where all is well."""
        if self._key is None:
            return RedirectResponse("/", 303) if asked.path == SIGN_IN else None
        address = client(scope)
        if asked.path == SIGN_IN:
            if asked.method == "POST":
                return await self._sign_in(self._key, asked, address, receive)
            onward = parse_qs(scope["query_string"].decode("latin-1")).get("next", ["/"])[0]
            return HTMLResponse(self._form("", local_path(onward)))
        if asked.path.startswith(OPEN):
            return None
        if any(self._key.in_cookies(header) for header in asked.headers.get("cookie", ())):
            return None
        sent = asked.headers.get("authorization", ())
        if sent:
            scheme, _, token = sent[0].partition(" ")
            return self._check(self._key, address, token.strip() if scheme.lower() == "bearer" else "")
        if asked.path.startswith(API) or asked.method not in admission.READING:
            return trouble(401, "Sign in first, or send the token: `Authorization: Bearer TOKEN`.", "token", BEARER)
        return RedirectResponse(f"{SIGN_IN}?next={quote(asked.path)}", 303)

    def _check(self, key: Key, address: str, token: str) -> Response | None:
        wait = self._tries.wait(address)
        if wait > 0:
            # Said before looking: a right guess among many wrong ones must not be told apart.
            text = f"Too many wrong tokens came from this address. Try again in {math.ceil(wait)} s."
            return trouble(429, text, "too much", {"Retry-After": str(math.ceil(wait))})
        if key.is_token(token):
            self._tries.worked(address)
            return None
        times = self._tries.failed(address)
        self._seldom.say("token", f"A wrong token was sent to the page from {address} ({times:,} so far).")
        return trouble(
            401, "This is not the token of this page; it is in page.token in nightschool.toml.", "token", BEARER
        )

    async def _sign_in(self, key: Key, asked: Asked, address: str, receive: Receive) -> Response:
        """The form was sent: the cookie and the way on, or the form again with what is wrong."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > FORM_BYTES:
                return trouble(413, "A token is shorter than that.", "too much")
        try:
            sent = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
        except ValueError:
            return trouble(422, "The form has two fields: token and next.", "request")
        onward = local_path(sent.get("next", ["/"])[0])
        refused = self._check(key, address, sent.get("token", [""])[0].strip())
        if refused is not None:
            text = str(msgspec.json.decode(bytes(refused.body))["error"])
            return HTMLResponse(self._form(text, onward), refused.status_code)
        answer = RedirectResponse(onward, 303)
        answer.headers["Set-Cookie"] = key.set_cookie(secure=(asked.one("origin") or "").startswith("https://"))
        return answer


PATH = re.compile(r"/([A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*)?")
BEARER = {"WWW-Authenticate": "Bearer"}


def local_path(text: str) -> str:
    """A path of this page; `/` where the text is something else, the address of another one above all."""
    return text if PATH.fullmatch(text) else "/"


def read_head(scope: Scope) -> Asked:
    """The head of a request, as the rules read it."""
    headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
    server: Sequence[str | int] = scope.get("server") or ("",)
    size = len(scope["path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in headers)
    return Asked(scope["method"], scope["path"], _by_name(headers), str(server[0]), size)


def client(scope: Scope) -> str:
    """The address of whoever asks."""
    found = scope.get("client")
    return str(found[0]) if found else "unknown"


def _by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found
