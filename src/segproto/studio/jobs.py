"""Work that takes longer than a click: writing a model or masks, forgetting a patch, looking for suspicious labels."""

from __future__ import annotations

import json
import multiprocessing
import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from segproto.errors import ConfigError, SegprotoError, plain
from segproto.orphans import end_with_parent
from segproto.runs.folder import run_of
from segproto.studio.session import Edits
from segproto.studio.state import Side

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
FOLDER = "studio"  # in the run: where models are written unless --out says otherwise
STOP = 5.0  # seconds a training has to end
ENDED = {"forget": "the training ended without a word; its run can be resumed"}


@dataclass
class Job:
    """One piece of work.

    Attributes:
        kind: ``apply``, ``forget``, ``review`` or ``masks``.
        out: the folder it writes.
        state: ``running``, ``done``, ``failed`` or ``stopped``.
        done: batches of a training, or images, so far.
        total: of so many.
        words: what it does, or how it ended.
        miou: before and after, at its end.
        then: the command for what was written.
        stops: whether it can be stopped.
    """

    kind: str
    out: str
    state: str = "running"
    done: int = 0
    total: int = 0
    words: str = ""
    miou: dict[str, float | None] | None = None
    then: str | None = None
    stops: bool = False


class Jobs:
    """One job at a time.

    Args:
        side: the run.
        out: where models are written; None = the run's own folder ``studio``.
    """

    def __init__(self, side: Side, out: Path | None) -> None:
        self.side = side
        run = run_of(side.target)
        self.root = out if out is not None else None if run is None else run / FOLDER
        self.job: Job | None = None
        self._process: BaseProcess | None = None
        self._lock = threading.Lock()

    def to_json(self) -> dict[str, Any] | None:
        """The job, for the page."""
        job = self.job
        if job is None:
            return None
        if job.state == "running" and job.kind == "forget":
            job.done = batches(Path(job.out))
        return asdict(job)

    def place(self, name: str | None, stem: str) -> Path:
        """A free folder for a model.

        Args:
            name: that a person gave; None = the first free of ``STEM-1``, ``STEM-2`` ...
            stem: of such names.

        Raises:
            ConfigError: a name that is taken, or with other characters than ``NAME`` has.
        """
        if self.root is None:
            raise ConfigError(f"{self.side.target} is in no run: start the studio with --out FOLDER to write models")
        if not name:
            return next(p for i in range(1, 10_000) if not (p := self.root / f"{stem}-{i}").exists())
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r}: a name has letters, digits, '.', '_' and '-', and begins with one of the first two"
            )
        if (self.root / name).exists():
            raise ConfigError(f"{self.root / name}: is taken; give another name")
        return self.root / name

    def apply(self, edits: Edits, name: str | None) -> None:
        """Writes the edited model, with its scores and provenance, as ``segproto edit`` does."""
        if not edits:
            raise ConfigError("nothing to apply: the model is as it was")
        out = self.place(name, "edit")
        self.start(Job("apply", str(out), words="writing the model and its scores"), lambda: self._apply(edits, out))

    def _apply(self, edits: Edits, out: Path) -> dict[str, Any]:
        from segproto.api.edit import edit

        side = self.side
        return edit(
            side.target,
            out=out,
            **edits.options(),
            score=side.no_scores is None,
            stage=side.stage,
            overrides=side.data_overrides,
            device=side.device,
            quiet=True,
        )

    def forget(self, prototype: int, name: str | None) -> None:
        """Starts the short training after which no prototype of the class stands for this patch."""
        out, side = self.place(name, "forget"), self.side
        options = {
            "target": str(side.target),
            "out": str(out),
            "forget": [prototype],
            "stage": side.stage,
            "overrides": side.overrides,
            "device": side.device,
            "score": side.no_scores is None,
            "quiet": True,
        }
        words = f"training to forget the patch of prototype {prototype}"
        self.apart(Job("forget", str(out), total=length(side), words=words), options)

    def apart(self, job: Job, options: dict[str, Any]) -> None:
        """Starts a job in a process of its own, which can be stopped.

        Args:
            job: its kind says what is done (``VERBS``).
            options: of the verb.

        Raises:
            ConfigError: another one is running.
        """
        job.stops = True
        self.start(job, lambda: self._apart(job, options))

    def _apart(self, job: Job, options: dict[str, Any]) -> dict[str, Any]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work_apart, args=(theirs, job.kind, options), daemon=True)
        with self._lock:
            self._process = process
            process.start()
        theirs.close()
        try:
            while "words" in (answer := ours.recv()):
                job.words, job.done, job.total = answer["words"], answer["done"], answer["total"]
        except EOFError:
            raise SegprotoError(ENDED.get(job.kind, "the work ended without a word; nothing was written")) from None
        finally:
            self._process = None  # it has said all; its last breath is not waited for
        if "error" in answer:
            raise SegprotoError(answer["error"])
        figures: dict[str, Any] = answer
        return figures

    def start(self, job: Job, work: Callable[[], dict[str, Any]]) -> None:
        """Runs a job in a thread.

        Raises:
            ConfigError: another one is running.
        """
        with self._lock:
            if self.job is not None and self.job.state == "running":
                either = ", or stop it" if self.job.stops else ""
                raise ConfigError(f"something else is being written; wait for it{either}")
            self.job = job
        threading.Thread(target=self._work, args=(job, work), daemon=True).start()

    def _work(self, job: Job, work: Callable[[], dict[str, Any]]) -> None:
        try:
            figures = work()
        except SegprotoError as error:
            if job.state == "running":
                job.state, job.words = "failed", plain(error.args[0])
        except Exception as error:  # whatever it is, the page must not wait for ever
            job.state, job.words = "failed", plain(f"{type(error).__name__}: {error}")
            raise
        else:
            job.miou, job.then = figures.get("miou"), figures.get("then")
            job.words = figures.get("ended", f"written to {job.out}")
            job.state = "done"

    def stop(self) -> None:
        """Ends what runs apart; of a training what it has is kept and can go on with ``segproto train --resume``."""
        with self._lock:
            process, job = self._process, self.job
            if process is None or job is None:
                return
            later = f"to go on: segproto train --resume {job.out}" if job.kind == "forget" else "nothing was written"
            job.state, job.words = "stopped", f"stopped: {job.words}; {later}"
            process.terminate()
        process.join(STOP)
        if process.is_alive():
            process.kill()


def work_apart(answers: Connection, kind: str, options: dict[str, Any]) -> None:
    """In a process of its own, which ends with the studio: a verb that takes long."""
    end_with_parent()
    try:
        answers.send(VERBS[kind](answers, **options))
    except SegprotoError as error:
        answers.send({"error": str(error.args[0])})


def forgotten(answers: Connection, *, target: str, **options: Any) -> dict[str, Any]:
    """An edit that trains."""
    from segproto.api.edit import edit

    return {"miou": edit(target, **options)["miou"]}


def reviewed(answers: Connection, *, target: str, **options: Any) -> dict[str, Any]:
    """The list of suspicious labels."""
    from segproto.api.review import review

    def tell(title: str, done: int, total: int) -> None:
        answers.send({"words": title, "done": done, "total": total})

    found = review(target, progress=tell, **options)
    return {"ended": f"{len(found['labels'])} suspicious regions in {found['images']} images"}


VERBS: dict[str, Callable[..., dict[str, Any]]] = {"forget": forgotten, "review": reviewed}


def length(side: Side) -> int:
    """Batches of forgetting, by the run's recipe."""
    run = run_of(side.target)
    if run is None:
        raise ConfigError(f"{side.target}: forgetting trains again, which needs the run's recipe; open the run folder")
    from segproto.runs.folder import Run

    forget = Run(run).recipe.get("stages", {}).get("forget")
    if not isinstance(forget, dict):
        raise ConfigError(f"a run of {Run(run).method} has no stages that forget; switch the prototype off instead")
    settings: dict[str, str] = dict(item.split("=", 1) for item in side.overrides)
    steps = [settings.get(f"stages.forget.{key}", str(forget.get(key, 0))) for key in ("steps", "retune_steps")]
    return sum(int(value) for value in steps)


def forgets(side: Side) -> bool:
    """Whether a patch can be forgotten, see :func:`length`."""
    try:
        return length(side) > 0
    except ConfigError:
        return False


def batches(out: Path) -> int:
    """Batches that a training has written down so far."""
    file = out / "metrics.jsonl"
    if not file.is_file():
        return 0
    steps: dict[str, int] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            steps[row["stage"]] = int(row["step"])
        except (ValueError, KeyError, TypeError):
            continue  # the line is being written
    return sum(steps.values())
