"""The verbs of ``data``: list, verify, init, prepare and submit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.errors import DataError
from segproto.files import place
from segproto.table import nearest

if TYPE_CHECKING:
    from segproto.data.kind import DataKind

PathLike = str | Path


def data_sets(name: str | None = None) -> list[dict[str, Any]]:
    """All kinds of data set that ``data.name`` takes, the published ones with address, terms, archives and root.

    Args:
        name: only this one.

    Raises:
        DataError: no such kind.
    """
    from segproto.data.table import DATASETS

    rows = [data_row(kind) for kind in DATASETS.values()]
    if name is None:
        return rows
    named = [row for row in rows if row["name"] == name]
    if not named:
        raise DataError(f"data set {name!r} is unknown; {nearest(name, [row['name'] for row in rows])}")
    return named


def data_row(kind: DataKind) -> dict[str, Any]:
    """What is listed about a kind of data set."""
    from segproto.data.roots import known_root

    row: dict[str, Any] = {"name": kind.name, "title": kind.title}
    if kind.where:
        row |= {"where": kind.where, "terms": kind.terms}
    published = kind.published
    if published is not None:
        root = known_root(published.name, published.variable)
        row["variants"] = list(published.variants)
        row["archives"] = [archive.name + (" (optional)" if archive.optional else "") for archive in published.archives]
        row |= {"root": None if root is None else str(root), "variable": published.variable}
    return row


def data_prepare(
    name: str, *, sources: Sequence[PathLike], root: PathLike, jobs: int = 1, quiet: bool = False
) -> dict[str, Any]:
    """Unpacks the archives of a published data set and checks that it is complete.

    Args:
        name: of the data set.
        sources: its archives, or folders that hold them; none is downloaded.
        root: the data root to make; what is there already is kept, so a call can be repeated.
        jobs: processes.
        quiet: no lines of progress.

    Returns:
        ``counts`` (images with a mask) per split and ``problems``, one line each.

    Raises:
        DataError: an archive that is missing, damaged or not the published one.
    """
    from segproto.data.prepare import prepare
    from segproto.data.published_sets import PUBLISHED
    from segproto.training.progress import Reporter

    if name not in PUBLISHED:
        raise DataError(f"data set {name!r} has no archives; {nearest(name, PUBLISHED)}")

    tell = Reporter(active=not quiet).line
    return prepare(PUBLISHED[name], [Path(source) for source in sources], place(root, "--root"), jobs, tell)


def data_submit(name: str, masks: PathLike, *, out: PathLike) -> dict[str, Any]:
    """Packs a folder of predicted masks as the benchmark's server wants them.

    Args:
        name: of a data set whose benchmark has a server.
        masks: what ``segproto predict`` wrote for the test images.
        out: the archive to write.

    Returns:
        ``out``, ``masks`` (their number) and ``test_images`` (how many the server expects).

    Raises:
        DataError: no such server, no masks, or values outside the classes.
    """
    from segproto.data.submission import SERVERS, submit

    count = submit(name, Path(masks), place(out))
    return {"out": str(out), "masks": count, "test_images": SERVERS[name].test_images}


def data_verify(
    *,
    overrides: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    devices: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Checks every pair of a data set.

    Args:
        overrides: ``data.key=value`` (or ``key=value``) settings.
        data: the same as a mapping.
        devices: processes that share the images, as in :func:`evaluate`; no GPU is used. All return the same.
        quiet: no progress.

    Returns:
        ``problems`` (a line each), ``counts`` (images per split), ``shares`` (of all labelled pixels, per class).
    """
    from segproto.data.verify import verify
    from segproto.runs.settings import data_config
    from segproto.training.progress import Reporter
    from segproto.training.sharing import shared

    config = data_config(None, data or {}, overrides)
    with (
        shared(devices, "cpu", "data verify", "run the command again") as share,
        Reporter(active=share.first and not quiet).bar("verify", 1) as bar,
    ):
        return verify(config, bar.part, share).to_json()


def data_init(
    *,
    overrides: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    out: PathLike | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Writes a ``classes.yaml`` from what the masks of a folder or zip archive hold, for a person to edit.

    Args:
        overrides: ``data.key=value`` (or ``key=value``) settings, as ``root=FOLDER``.
        data: the same as a mapping.
        out: the file; None: ``classes.yaml`` in the folder. It is never written over.
        quiet: no progress.

    Returns:
        ``out``, ``layout`` (what the folder was taken for), ``settings`` (what says the same), ``classes`` (name to
        share of all pixels), ``void`` and ``notes`` (what was decided, a line each).

    Raises:
        ConfigError: the file is there already.
        DataError: no images with masks there, or more than one way to read them.
    """
    from segproto.data.init import init_folder
    from segproto.runs.settings import data_config
    from segproto.training.progress import Reporter

    config = data_config(None, data or {}, overrides)
    if config.name != "folder":
        raise DataError(f"data.name={config.name}: its classes are known; a classes.yaml is for data.name=folder")
    with Reporter(active=not quiet).bar("count", 1) as bar:
        return init_folder(config, None if out is None else place(out), bar.part).to_json()
