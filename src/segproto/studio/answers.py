"""How a route answers: worked out in a thread, as JSON or a picture, or with a line of what is wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from segproto.errors import SegprotoError
from segproto.studio.images import too_large

BODY = 2**20  # bytes of a request that is no picture
Answer = Callable[[Request], Awaitable[Response]]


def told(answer: Callable[[Request], Any]) -> Answer:
    """A route that answers with JSON, or with a line of what is wrong."""

    async def route(request: Request) -> Response:
        return await answered(lambda: JSONResponse(answer(request), headers={"cache-control": "no-store"}))

    return route


def shown(answer: Callable[[Request], tuple[bytes, str]]) -> Answer:
    """A route that answers with a picture. Its address says all it depends on, and is kept for an hour."""

    def response(request: Request) -> Response:
        content, kind = answer(request)
        return Response(content, media_type=f"image/{kind}", headers={"cache-control": "private, max-age=3600"})

    async def route(request: Request) -> Response:
        return await answered(lambda: response(request))

    return route


def done(answer: Callable[[Request, dict[str, Any]], Any]) -> Answer:
    """A route that takes JSON and changes something."""

    async def route(request: Request) -> Response:
        try:
            body = await read(request, BODY)
            value = await request.json() if body else {}
        except ValueError:
            return wrong("a request that is no JSON")
        except SegprotoError as error:
            return wrong(str(error.args[0]), 413)
        if not isinstance(value, dict):
            return wrong("a request that is no object")
        return await answered(lambda: JSONResponse(answer(request, value)))

    return route


async def read(request: Request, most: int) -> bytes:
    """A request's body; reading stops where it is too long.

    Raises:
        ConfigError: too many bytes.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large()
        parts.append(part)
    request._body = b"".join(parts)
    return request._body


async def answered(answer: Callable[[], Response]) -> Response:
    """Works an answer out in a thread."""
    try:
        return await run_in_threadpool(answer)
    except SegprotoError as error:
        return wrong(str(error.args[0]))


def wrong(line: str, status: int = 400) -> Response:
    """What is wrong, in a line."""
    return JSONResponse({"error": line}, status_code=status)
