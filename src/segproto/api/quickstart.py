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


def quickstart(*, out: PathLike = "runs/quickstart", quiet: bool = False) -> dict[str, Any]:
    """Trains a black box and a prototype model on generated scenes, compares, explains and reports them.

    Returns:
        ``runs`` (figures per method), ``report``, ``seconds``.
    """
    from segproto.runs.folder import Run
    from segproto.training.progress import Reporter

    begin, out, say = time.perf_counter(), place(out), Reporter(active=not quiet).line
    steps = {"blackbox": "1/2 black box, the upper bound", "scaleproto": "2/2 prototypes, projected and grouped"}
    folders = {method: out / method for method in steps}
    require(out / "report.html", "page")
    require(out / "compare.json", "figures")
    for method, text in steps.items():
        say(text)
        beside = [] if method == "blackbox" else [f"compare={folders['blackbox'].absolute()}"]
        train(f"{method}/scenes", out=folders[method], quiet=quiet, overrides=beside)
        evaluate(folders[method], quiet=quiet)
    say("explaining three images, writing the report")
    report = write_report(folders["scaleproto"], out=out / "report.html", quiet=quiet)
    compare(list(folders.values()), out=out / "compare.json")
    figures = {method: Run(folder).figures() for method, folder in folders.items()}
    return {"runs": figures, "report": str(report), "seconds": round(time.perf_counter() - begin, 1)}
