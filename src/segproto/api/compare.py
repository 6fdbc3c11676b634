"""The verb ``compare``: mean and spread of runs, side by side."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segproto.errors import DataError
from segproto.files import place, require_all, write_json
from segproto.runs.folder import Run

PathLike = str | Path
FIGURES = ("miou", "accuracy", "prototypes", "prototypes_used", "group_average")


def compare(runs: PathLike | Sequence[PathLike], *, out: PathLike | None = None) -> dict[str, Any]:
    """Mean and spread (sample standard deviation) over the runs of each recipe, side by side.

    ``runs`` are run folders, or folders that hold runs (``--seeds``); ``out`` is a JSON file to write.
    """
    runs = [runs] if isinstance(runs, str | Path) else runs
    if out is not None:
        patterns = ("evaluation/*.json", "*/evaluation/*.json")
        require_all([place(out)], "figures", (f for run in runs for p in patterns for f in Path(run).glob(p)))
    result = compare_runs([Path(run) for run in runs])
    if out is not None:
        write_json(Path(out), result, "figures", str)
    return result


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """One row per configuration, with the mean and the sample standard deviation over its runs.

    Args:
        folders: run folders, or folders whose subfolders are runs (``--seeds``); the runs of one such folder, and run
            folders of one name but ``seedN``, form a row.

    Returns:
        ``rows``: name, method, runs (count), seeds, precisions, folders, ``absent`` (words about classes that the
        validation images do not show; empty if all do), and for each figure ``mean``, ``std`` (None for one run) and
        ``values``.

    Raises:
        DataError: a folder without a run, or a run that was never validated.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    for folder in folders:
        for run in find_runs(folder):
            parent = run.path.absolute()
            groups[str(parent.parent if parent.name.startswith("seed") else parent)].append(run)
    names = short_names(list(groups))
    return {"rows": [row(names[key], runs) for key, runs in groups.items()]}


def find_runs(folder: Path) -> list[Run]:
    """The run itself, or those in the folder's subfolders."""
    if (folder / "recipe.yaml").is_file():
        return [Run(folder)]
    folders = sorted(file.parent for file in folder.glob("*/recipe.yaml"))
    if not folders:
        raise DataError(f"{folder}: no run there (no recipe.yaml in it or its subfolders)")
    return [Run(path) for path in folders]


def row(name: str, runs: list[Run]) -> dict[str, Any]:
    """The figures of runs that differ in their seed only."""
    figures = [run.figures() for run in runs]
    for run, values in zip(runs, figures, strict=True):
        if values["miou"] is None:
            raise DataError(f"{run.path}: no validation figures; make them with: segproto evaluate {run.path}")
    return {
        "name": name,
        "method": runs[0].method,
        "runs": len(runs),
        "seeds": [run.recipe.get("train", {}).get("seed") for run in runs],
        "precisions": [run.recipe.get("train", {}).get("precision") for run in runs],
        "folders": [str(run.path) for run in runs],
        "absent": runs[0].absent,
        **{key: mean_and_spread([values[key] for values in figures]) for key in FIGURES},
    }


def mean_and_spread(values: list[float | None]) -> dict[str, Any] | None:
    """Mean and sample standard deviation (None for one value); None if a run has no such figure."""
    figures = [value for value in values if value is not None]
    if len(figures) < len(values):
        return None
    spread = statistics.stdev(figures) if len(figures) > 1 else None
    return {"mean": statistics.fmean(figures), "std": spread, "values": figures}


def short_names(paths: list[str]) -> dict[str, str]:
    """Each path's last part, with its parent where two would be alike."""
    tails = [Path(path).name for path in paths]
    return {p: t if tails.count(t) == 1 else f"{Path(p).parent.name}/{t}" for p, t in zip(paths, tails, strict=True)}
