"""Opens the studio: loads the runs, listens, and looks at the validation images while the page already stands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segproto.api.review import LIST
from segproto.errors import ConfigError, DataError
from segproto.files import place
from segproto.imports import quick
from segproto.studio.images import Uploads
from segproto.studio.security import HOST, Guard, listen, new_token

if TYPE_CHECKING:
    from segproto.studio.state import Side

MISSING = 'the studio needs starlette and uvicorn: pip install "segproto[studio]"'


def serve(
    target: Path,
    *,
    compare: Path | None = None,
    out: Path | None = None,
    review: Path | None = None,
    port: int = 0,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Serves the page until Ctrl-C.

    Args:
        target: a run or model folder.
        compare: another one, to stand beside it.
        out: where edited models, decisions and masks are written; default: ``TARGET/studio`` of a run.
        review: a folder that ``segproto review`` made, whose list is shown; default: the one made in the studio.
        port: 0 = any that is free.
        stage: of a run: the model that this stage left.
        overrides: ``data.key=value`` settings of the validation images.
        device: as in :func:`segproto.evaluate`.
        tell: takes lines for a person: the address, and what is not as expected.

    Raises:
        ConfigError: starlette or uvicorn is not installed, the port is taken, or ``out`` is a file.
        SegprotoError: no model there, or no list.
    """
    with quick():
        try:
            import uvicorn

            from segproto.studio.app import Studio, build_app
        except ImportError as error:
            raise ConfigError(f"{MISSING} ({error})") from error
        import torch

        from segproto.studio.jobs import Jobs
        from segproto.studio.state import Side

    require_folders(out, review)
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))  # requests and images are worked on side by side
    listening = listen(port)
    with listening:
        uploads = Uploads()
        side = Side(target, uploads, stage=stage, overrides=overrides, device=device)
        other = None if compare is None else Side(compare, uploads, overrides=overrides, device=device)
        jobs = Jobs(side, None if out is None else place(out))
        token, chosen = new_token(), int(listening.getsockname()[1])
        guard = Guard(build_app(Studio(side, other, uploads, jobs, review)), token, chosen)
        for one in (side, other):
            if one is not None and one.no_scores is not None:
                tell(f"{one.target}: no validation images, so edits are not scored: {one.no_scores}")
        threading.Thread(target=look, args=([one for one in (side, other) if one is not None],), daemon=True).start()
        tell(f"Open http://{HOST}:{chosen}/{token}/ (only this machine can; Ctrl-C ends it)")
        server = uvicorn.Server(uvicorn.Config(guard, log_level="warning", access_log=False, lifespan="off"))
        try:
            server.run(sockets=[listening])
        finally:
            jobs.stop()


def require_folders(out: Path | None, review: Path | None) -> None:
    """Refuses, before anything is loaded, places that a person would only miss after many edits.

    Raises:
        SegprotoError: ``out`` is a file, or ``review`` has no list.
    """
    if out is not None and place(out).exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; name a folder")
    if review is not None and not (list_of := place(review, "--review") / LIST).is_file():
        raise DataError(f"{list_of}: there is no such file; name a folder that segproto review made")


def look(sides: Sequence[Side]) -> None:
    """Looks at the validation images of each side."""
    for side in sides:
        side.look()
