"""Who may talk to the studio: the browser that was given the address, on this machine, from the studio's own page."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from segproto.errors import ConfigError

HOST = "127.0.0.1"
PAGES = ("", "review")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
HEADERS = [
    (b"content-security-policy", b"default-src 'none'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
     b"script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]  # fmt: skip
NO = {403: b"this page is not for others", 404: b"nothing here: open the address that segproto studio printed"}


class Guard:
    """Lets a request through if its Host, its Origin and the token in its path are the studio's.

    A page of another site cannot know the token (it is never sent on: no referrer), and a name that another site lets
    point to this machine (DNS rebinding) is another Host.

    Args:
        app: what answers; sees paths without the token.
        token: of the address.
        port: that is listened on.
    """

    def __init__(self, app: App, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.pages = {f"/{token}/{name}" for name in PAGES}
        self.hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        reason = self.refused(scope)
        if reason:
            await send({"type": "http.response.start", "status": reason, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": NO[reason]})
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        path = scope["path"].removeprefix(f"/{self.token}")
        await self.app({**scope, "path": path, "raw_path": path.encode()}, receive, send_guarded)

    def refused(self, scope: Scope) -> int:
        """The status to refuse a request with; 0 = it is let through."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get(b"host") not in self.hosts:
            return 403
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "same-origin")
        if origin is not None and origin.removeprefix("http://") not in self.hosts:
            return 403
        given = scope["path"].removeprefix("/").partition("/")[0]
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return 404
        changing = scope["method"] not in ("GET", "HEAD")
        if site != "same-origin" and (changing or scope["path"] not in self.pages):
            return 403  # the pages themselves may be opened from an e-mail or a terminal; nothing else may
        if changing and headers.get(b"x-segproto") != "studio":
            return 403  # a header that a form of another site cannot send
        return 0


def new_token() -> str:
    """A random part of the address."""
    return secrets.token_urlsafe(16)


def listen(port: int) -> socket.socket:
    """A socket on this machine alone.

    Args:
        port: 0 = any that is free.

    Raises:
        ConfigError: the port is taken, or may not be used.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise ConfigError(f"port {port}: {reason}; give another --port, or --port 0 for any that is free") from error
    return listening
