"""The routes of the studio's page of suspicious labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from segproto.errors import ConfigError
from segproto.studio.answers import done, shown, told
from segproto.studio.page import review_page

if TYPE_CHECKING:
    from segproto.studio.app import Studio
    from segproto.studio.review import Review


class ReviewRoutes:
    """What the page asks for and sends.

    Args:
        studio: whose labels they are about.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    @property
    def review(self) -> Review:
        return self.studio.review

    def routes(self) -> list[Route]:
        """All of them, for the application."""
        return [
            Route("/review", self.page),
            Route("/review/list", told(lambda request: self.review.list_json())),
            Route("/review/state", told(lambda request: self.review.state_json())),
            Route("/review/decide", done(self.decide), methods=["POST"]),
            Route("/review/undo", done(self.undo), methods=["POST"]),
            Route("/review/find", done(self.find), methods=["POST"]),
            Route("/review/write", done(self.write), methods=["POST"]),
            Route("/region/{key}", shown(self.region)),
            Route("/reason/{key}/{kind}/{number:int}", shown(self.reason)),
        ]

    async def page(self, request: Request) -> Response:
        return Response(review_page(self.studio.sides[0]), media_type="text/html")

    def decide(self, request: Request, value: dict[str, Any]) -> Any:
        return self.review.decide(str(value.get("key")), value.get("verdict"), value.get("to"))

    def undo(self, request: Request, value: dict[str, Any]) -> Any:
        revision = value.get("revision")
        if not isinstance(revision, int):
            raise ConfigError(f"revision {revision!r}: expected a number")
        return self.review.undo(revision)

    def find(self, request: Request, value: dict[str, Any]) -> Any:
        self.review.find()
        return self.review.state_json()

    def write(self, request: Request, value: dict[str, Any]) -> Any:
        name = value.get("name")
        self.review.write(None if name is None else str(name))
        return self.review.state_json()

    def region(self, request: Request) -> tuple[bytes, str]:
        return self.review.region(request.path_params["key"], request.query_params.get("how", "part"))

    def reason(self, request: Request) -> tuple[bytes, str]:
        names = request.path_params
        return self.review.reason(names["key"], names["kind"], names["number"])
