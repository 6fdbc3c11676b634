"""The page itself: one HTML document, its style and its scripts, which the report shares."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from segproto.data.base import ClassTable
from segproto.files.pages import page_environment
from segproto.report.tables import css
from segproto.report.wording import relation
from segproto.studio.state import Side
from segproto.version import __version__

ASSETS = {
    "style.css": "text/css",
    "studio.css": "text/css",
    "probe.js": "text/javascript",
    "talk.js": "text/javascript",
    "wall.js": "text/javascript",
    "panel.js": "text/javascript",
    "studio.js": "text/javascript",
    "review.css": "text/css",
    "review.js": "text/javascript",
}


@lru_cache
def asset(name: str) -> str:
    """A file of ``ASSETS``: the studio's own, else the report's."""
    loader = page_environment("segproto.studio", "segproto.report")
    assert loader.loader is not None
    return loader.loader.get_source(loader, name)[0]


def review_page(side: Side) -> str:
    """The HTML document of suspicious labels."""
    name = side.target.absolute().name
    template = page_environment("segproto.studio", "segproto.report").get_template("labels.html.j2")
    return template.render(
        title=f"Labels of {name} - segproto studio", name=name, version=__version__, warnings=side.warnings
    )


def page(sides: Sequence[Side]) -> str:
    """The HTML document of the model."""
    name = names([side.target for side in sides])[0]
    template = page_environment("segproto.studio", "segproto.report").get_template("studio.html.j2")
    return template.render(
        title=f"{name} - segproto studio",
        name=name,
        version=__version__,
        explains=sides[0].model.head.bank is not None,
        warnings=sides[0].warnings,
        sides=[
            {
                "spoken": f"spoken-{number}",
                "relation": relation(side.model),
                "explains": side.model.head.bank is not None,
                "classes": legend(side.model.classes),
                "probe": {"groups": side.model.head.grouping is not None},
            }
            for number, side in enumerate(sides)
        ],
    )


def names(targets: Sequence[Path]) -> list[str]:
    """What runs are called: the last folder of each path, and of paths that end alike as many as tell them apart."""
    parts = [target.absolute().parts for target in targets]
    for depth in range(1, max(map(len, parts))):
        ends = [str(Path(*path[-depth:])) for path in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [f"{path[-1]} ({number})" if len(parts) > 1 else path[-1] for number, path in enumerate(parts, 1)]


def legend(classes: ClassTable) -> list[dict[str, str]]:
    """Names and colours."""
    return [{"name": name, "colour": css(colour)} for name, colour in zip(classes.names, classes.colours, strict=True)]
