"""The routes of the studio: what the page asks for, and what it is answered."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from segproto.errors import ConfigError, SegprotoError
from segproto.model.explanation import Region
from segproto.studio import draw, tell
from segproto.studio.answers import Answer, answered, done, read, shown, told, wrong
from segproto.studio.earlier import Earlier
from segproto.studio.images import UPLOAD_BYTES, Recent, Uploads
from segproto.studio.jobs import Jobs, forgets
from segproto.studio.page import ASSETS, asset, names, page
from segproto.studio.review_routes import ReviewRoutes
from segproto.studio.session import STEPS, Edits, Session, Sessions, changed
from segproto.studio.state import Side

if TYPE_CHECKING:
    from segproto.studio.review import Review

TURNED = "The file says that it is to be turned (EXIF); the model sees it as it is stored, and so it is shown."


class Studio:
    """The two sides, their images, the sessions and the work in progress.

    Args:
        side: the run.
        other: a run to compare with, or None.
        uploads: images that a person brought.
        jobs: that write.
        review: a folder of ``segproto review``; None = suspicious labels are looked for here.
    """

    def __init__(
        self, side: Side, other: Side | None, uploads: Uploads, jobs: Jobs, review: Path | None = None
    ) -> None:
        self.sides = [side] if other is None else [side, other]
        self.uploads, self.jobs, self.sessions = uploads, jobs, Sessions()
        self.earlier = Earlier(jobs.root, str(side.target.absolute()))
        self.given = review
        self._opened: Recent[Review] = Recent(1)

    @property
    def review(self) -> Review:
        """The labels of the run; what they need is imported when somebody asks, so that the studio starts soon."""

        def make() -> Review:
            from segproto.studio import review

            return review.Review(self.sides[0], self.jobs, self.given)

        return self._opened.get(None, make)

    # What a request names.

    def session(self, request: Request) -> Session:
        """The session of the browser that asks."""
        return self.sessions.get(request.query_params.get("s", ""))

    def side(self, request: Request) -> tuple[Side, Edits]:
        """The side it asks about, with the edits in force there: only the first can be edited."""
        number = request.query_params.get("side", "0")
        if number == "0":
            return self.sides[0], self.session(request).edits
        if number == "1" and len(self.sides) > 1:
            return self.sides[1], Edits()
        raise ConfigError(f"side {number}: there is none; start the studio with --compare RUN")

    def part(self, request: Request) -> tuple[Side, str, Region, Edits]:
        """The part of an image it asks about."""
        side, edits = self.side(request)
        key = request.path_params["key"]
        height, width = side.size(key)
        text = request.query_params.get("region")
        try:
            y0, x0, y1, x1 = (0, 0, height, width) if text is None else map(int, text.split(","))
        except ValueError:
            raise ConfigError(f"region {text}: expected y0,x0,y1,x1") from None
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            raise ConfigError(f"region {text}: the image has {height} x {width} pixels")
        return side, key, (y0, x0, y1, x1), edits

    def prototype(self, request: Request) -> tuple[Side, int]:
        """The prototype it asks about."""
        side, p = self.side(request)[0], int(request.path_params["p"])
        bank = side.model.head.bank
        if bank is None or p >= bank.num_prototypes:
            raise ConfigError(f"prototype {p}: there is none")
        return side, p

    # Answers; each runs in a thread.

    def state(self, request: Request) -> Any:
        session = self.session(request)
        progress = [{"done": side.done, "total": side.total, "failed": side.failed} for side in self.sides]
        return {"looked": progress, "job": self.jobs.to_json(), **tell.state_json(self.sides[0], session)}

    def model(self, request: Request) -> Any:
        side, called = self.side(request)[0], names([one.target for one in self.sides])
        return {**tell.model_json(side, called[self.sides.index(side)]), "forgets": forgets(side)}

    def wall(self, request: Request) -> Any:
        side, edits = self.side(request)
        return tell.wall_json(side, edits) if side.ready and side.no_scores is None else []

    def scores(self, request: Request) -> Any:
        side, edits = self.side(request)
        return {"before": side.scores(Edits()), "after": side.scores(edits)}

    def without(self, request: Request) -> Any:
        side, p = self.prototype(request)
        edits = self.side(request)[1]
        less = changed(edits, {"kind": "drop", "prototype": p}, partial(tell.group_name, side)).edits
        return {"before": side.scores(edits), "after": side.scores(less)}

    def probe(self, request: Request) -> Any:
        return tell.probe_json(*self.part(request))

    def heat(self, request: Request) -> Any:
        return tell.heat_json(*self.part(request), request.query_params.get("unit", ""))

    def about(self, request: Request) -> Any:
        return tell.prototype_json(*self.prototype(request))

    def layer(self, request: Request) -> tuple[bytes, str]:
        side, key, region, edits = self.part(request)
        return draw.layer(side, request.path_params["name"], key, region, edits)

    def thumb(self, request: Request) -> tuple[bytes, str]:
        return draw.thumb(self.sides[0], request.path_params["key"])

    def patch(self, request: Request) -> tuple[bytes, str]:
        number = request.query_params.get("number", "0")
        return draw.patch(*self.prototype(request), int(number) if number.isdigit() else 0)

    def context(self, request: Request) -> tuple[bytes, str]:
        return draw.context(*self.prototype(request))

    def fire(self, request: Request) -> tuple[bytes, str]:
        side, key, box, _ = self.part(request)
        return draw.fire(side, int(key), box)

    # Changes.

    def edit(self, request: Request, value: dict[str, Any]) -> Any:
        session, side = self.session(request), self.sides[0]
        step = changed(session.edits, value, partial(tell.group_name, side))
        side.changed(step.edits)  # refuses what cannot be done
        if step.edits != session.edits:  # else nothing changed
            session.do(step.edits, step.words)
            self.earlier.keep(session)
        return tell.state_json(side, session)

    def go(self, request: Request, value: dict[str, Any]) -> Any:
        session, to = self.session(request), value.get("to")
        if not isinstance(to, int):
            raise ConfigError(f"edit {to!r}: expected a number")
        session.go(to)
        self.earlier.keep(session)
        return tell.state_json(self.sides[0], session)

    def restore(self, request: Request, value: dict[str, Any]) -> Any:
        """Edits that the browser or the studio before this one remembers; those of a session that goes on are kept."""
        session, side, earlier = self.session(request), self.sides[0], self.earlier
        if value.get("earlier") is True and earlier.content is not None:
            value = earlier.content.model_dump()
        rows = value.get("steps", [])
        if len(session.steps) == 1 and isinstance(rows, list) and value.get("model") == earlier.model:
            fresh = Session()
            for row in rows[:STEPS]:
                edits = Edits.from_json(row["edits"])
                side.changed(edits)
                fresh.do(edits, str(row["words"])[:200])
            fresh.go(value.get("at", 0))
            session.steps, session.at = fresh.steps, fresh.at
        offered = earlier.content.at if earlier.content is not None and len(session.steps) == 1 else 0
        return {"model": earlier.model, "earlier": offered, **tell.state_json(side, session)}

    def apply(self, request: Request, value: dict[str, Any]) -> Any:
        self.jobs.apply(self.session(request).edits, value.get("name"))
        return self.jobs.to_json()

    def forget(self, request: Request, value: dict[str, Any]) -> Any:
        p = value.get("prototype")
        if not isinstance(p, int):
            raise ConfigError(f"prototype {p!r}: expected a number")
        self.jobs.forget(p, value.get("name"))
        return self.jobs.to_json()

    def stop(self, request: Request, value: dict[str, Any]) -> Any:
        self.jobs.stop()
        return self.jobs.to_json()

    def upload(self, content: bytes, name: str) -> Any:
        rule = self.sides[0].model.encoder.pixels
        key = self.uploads.add(content, name, rule)
        picture = self.uploads.picture(key, rule)
        turned = TURNED if picture.orientation > 1 else None
        return {"key": key, "size": [picture.height, picture.width], "name": picture.name, "note": turned}


def uploaded(studio: Studio) -> Answer:
    """The route that takes a picture, its bytes being the whole request."""

    async def route(request: Request) -> Response:
        try:
            content = await read(request, UPLOAD_BYTES)
        except SegprotoError as error:
            return wrong(str(error.args[0]), 413)
        name = request.query_params.get("name", "image")
        return await answered(lambda: JSONResponse(studio.upload(content, name)))

    return route


def build_app(studio: Studio) -> Starlette:
    """The application, for :class:`segproto.studio.security.Guard`."""

    async def home(request: Request) -> Response:
        return Response(page(studio.sides), media_type="text/html")

    async def assets(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            return wrong("no such file", 404)
        return Response(asset(name), media_type=ASSETS[name], headers={"cache-control": "no-cache"})

    tells = {name: getattr(studio, name) for name in ("state", "model", "wall", "scores")}
    takes = {name: getattr(studio, name) for name in ("edit", "go", "restore", "apply", "forget", "stop")}
    return Starlette(
        routes=[
            Route("/", home),
            Route("/asset/{name}", assets),
            *(Route(f"/{name}", told(answer)) for name, answer in tells.items()),
            *(Route(f"/{name}", done(answer), methods=["POST"]) for name, answer in takes.items()),
            Route("/upload", uploaded(studio), methods=["POST"]),
            Route("/probe/{key}", told(studio.probe)),
            Route("/heat/{key}", told(studio.heat)),
            Route("/about/{p:int}", told(studio.about)),
            Route("/without/{p:int}", told(studio.without)),
            Route("/layer/{name}/{key}", shown(studio.layer)),
            Route("/thumb/{key}", shown(studio.thumb)),
            Route("/patch/{p:int}", shown(studio.patch)),
            Route("/context/{p:int}", shown(studio.context)),
            Route("/fire/{key}", shown(studio.fire)),
            *ReviewRoutes(studio).routes(),
        ]
    )
