"""The verb ``quickstart``: from nothing to a report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from segproto.api.compare import compare
from segproto.api.evaluate import evaluate
from segproto.api.report import write_report
from segproto.api.train import train
from segproto.files import place, require

PathLike = str | Path
RECIPES = {  # what a newcomer sees first: a model that explains itself beside one that does not
    "blackbox/scenes": "1/2 black box, the upper bound",
    "scaleproto/scenes": "2/2 prototypes, projected and grouped",
}


def quickstart(*, out: PathLike = "runs/quickstart", quiet: bool = False) -> dict[str, Any]:
    """Trains a black box and a prototype model on generated scenes, compares, explains and reports them.

    Returns:
        ``runs`` (figures per method), ``report``, ``seconds``.
    """
    from segproto.runs.folder import Run
    from segproto.training.progress import Reporter

    begin, out, say = time.perf_counter(), place(out), Reporter(active=not quiet).line
    folders = {recipe: out / recipe.partition("/")[0] for recipe in RECIPES}
    first, last = list(folders.values())
    require(out / "report.html", "page")
    require(out / "compare.json", "figures")
    for recipe, folder in folders.items():
        say(RECIPES[recipe])
        beside = [] if folder == first else [f"compare={first.absolute()}"]
        train(recipe, out=folder, quiet=quiet, overrides=beside)
        evaluate(folder, quiet=quiet)
    say("explaining three images, writing the report")
    report = write_report(last, out=out / "report.html", quiet=quiet)
    compare(list(folders.values()), out=out / "compare.json")
    figures = {folder.name: Run(folder).figures() for folder in folders.values()}
    return {"runs": figures, "report": str(report), "seconds": round(time.perf_counter() - begin, 1)}
