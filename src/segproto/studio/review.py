"""Suspicious labels in the studio: the list of ``segproto review``, what was decided, and masks with the decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from segproto.api.review import LIST, labelled_splits
from segproto.data.base import Sample, SegmentationDataset
from segproto.data.picture import to_pil
from segproto.errors import ConfigError, DataError, SegprotoError
from segproto.evaluation.review.decisions import Decision, decision_of
from segproto.files.documents import Record, read_checked
from segproto.model.evidence import source_of
from segproto.model.patches import patch_picture, stored_patch
from segproto.report.pictures import Kind, encoded
from segproto.report.review_page import outlined
from segproto.report.tables import css
from segproto.studio.corrected import require_unchanged, write_masks
from segproto.studio.decisions import Content, Decisions, Entry, Reason
from segproto.studio.images import Recent
from segproto.studio.jobs import Job, Jobs
from segproto.studio.state import Side

FOLDER = "review"  # in the studio's folder: the list that was made here
EXPLAINED = 100  # regions with their reasons, of a list that is made here
SIDE, SMALL, PATCH = 900, 220, 160  # longest sides of pictures
WHOLE = 1e6  # times a region around it: all of its image


class Labels(Record):
    """``labels.json``."""

    labels: list[Entry]
    images: int
    split: Literal["train", "val"]


class Listed:
    """A list of suspicious labels that was read.

    Args:
        file: where it lies.

    Attributes:
        entries: by their keys, the most suspicious first.
        stamp: another one for another list.
    """

    def __init__(self, file: Path) -> None:
        status = file.stat()
        self.stamp = f"{status.st_mtime_ns}-{status.st_size}"
        self.labels = read_checked(file, Labels, DataError, "make it anew with segproto review")
        self.entries = {entry.key: entry for entry in self.labels.labels}


class Review:
    """The labels of one run.

    Args:
        side: the run.
        jobs: that write; decisions lie in the folder of what they write.
        given: a folder of ``segproto review``; None = a list is made here when it is asked for.
    """

    def __init__(self, side: Side, jobs: Jobs, given: Path | None) -> None:
        self.side, self.jobs, self.given = side, jobs, given
        self._lists: Recent[Listed] = Recent(1)
        self._data: Recent[SegmentationDataset] = Recent(2)
        self._samples: Recent[Sample] = Recent(8)

    @property
    def folder(self) -> Path:
        """Where the list lies."""
        return self.root / FOLDER if self.given is None else self.given

    @property
    def root(self) -> Path:
        """Where all is written.

        Raises:
            ConfigError: nowhere.
        """
        if self.jobs.root is None:
            raise ConfigError(f"{self.side.target} is in no run: start the studio with --out FOLDER to keep decisions")
        return self.jobs.root

    @property
    def decisions(self) -> Decisions:
        return Decisions(self.root)

    def listed(self) -> Listed | None:
        """The list; None if there is none yet.

        Raises:
            DataError: it cannot be read, or is about other images or classes than the run's.
        """
        file = self.folder / LIST
        if not file.is_file():
            if self.given is None:
                return None
            raise DataError(f"{file}: there is no such file; name a folder that segproto review made")
        status = file.stat()
        return self._lists.get((file, status.st_mtime_ns, status.st_size), lambda: self._read(file))

    def _read(self, file: Path) -> Listed:
        listed = Listed(file)
        dataset = self.dataset(listed.labels.split)
        known, classes = set(dataset.names), dataset.classes
        for entry in listed.labels.labels:
            if entry.image not in known:
                raise DataError(
                    f"{file}: is about {entry.image!r}, which is none of the {len(dataset)} {dataset.split} images of "
                    f"{self.side.target}: it was made of another run, or the images moved; make it anew"
                )
            try:
                decision_of(entry.plain() | {"verdict": "dismiss"}, classes)
            except ConfigError as error:
                raise DataError(
                    f"{file}: was made of another run, or of other classes: {error}; make it anew"
                ) from error
        return listed

    def dataset(self, split: str) -> SegmentationDataset:
        """The images and masks of a split.

        Raises:
            SegprotoError: there are none, or they say nothing of labels; see :func:`segproto.api.review.review`.
        """
        return self._data.get(split, lambda: self._splits(split)[0])

    def _splits(self, split: str) -> list[SegmentationDataset]:
        side = self.side
        return labelled_splits(side.target, side.model, side.data_overrides, split, writes=False)

    def entry(self, key: str) -> Entry:
        """The region of a key.

        Raises:
            ConfigError: the list has none of that key.
        """
        listed = self.listed()
        if listed is None or key not in listed.entries:
            raise ConfigError("this region is not in the list any more: it was made anew; load the page again")
        return listed.entries[key]

    def sample(self, image: str) -> Sample:
        """An image of the list with its mask."""
        listed = self.listed()
        dataset = self.dataset("train" if listed is None else listed.labels.split)
        if image not in dataset.names:
            raise DataError(f"{image}: is none of the {dataset.split} images any more; did they move?")
        return self._samples.get(image, lambda: dataset[list(dataset.names).index(image)])

    # What the page is told.

    def list_json(self) -> dict[str, Any]:
        """The list without pixels, or why there is none."""
        told: dict[str, Any] = {"rows": [], "problem": None, "given": self.given is not None, "stamp": None}
        try:
            listed = self.listed()
            dataset = self.dataset("train" if listed is None else listed.labels.split)
        except SegprotoError as error:
            return told | {"problem": str(error.args[0])}
        classes = dataset.classes
        told["classes"] = [
            {"name": name, "colour": css(colour)} for name, colour in zip(classes.names, classes.colours, strict=True)
        ]
        told |= {"images": len(dataset), "split": dataset.split, "prototypes": self.side.model.head.bank is not None}
        if listed is not None:
            told |= {
                "stamp": listed.stamp,
                "folder": str(self.folder.absolute()),
                "rows": [self.row(key, entry) for key, entry in listed.entries.items()],
            }
        return told

    def row(self, key: str, entry: Entry) -> dict[str, Any]:
        """A region in words."""
        y0, x0, y1, x1 = entry.box
        return {
            "key": key,
            "image": entry.image,
            "label": entry.label,
            "suggested": entry.suggested,
            "score": round(entry.score, 2),
            "pixels": entry.pixels,
            "place": f"rows {y0}\N{EN DASH}{y1 - 1}, columns {x0}\N{EN DASH}{x1 - 1}",
            "patches": [f"{reason.share:.0%} of the vote: {reason.image}" for reason in entry.patches],
            "prototypes": [self.prototype_words(reason) for reason in entry.prototypes],
        }

    def prototype_words(self, reason: Reason) -> str:
        """A prototype that speaks for the suggested class."""
        bank, number = self.side.model.head.bank, reason.prototype
        if bank is None or number is None or number >= bank.num_prototypes:
            return f"prototype {number} of another model"
        owner = self.side.model.classes.names[int(bank.class_of[number])]
        return f"#{number} of {owner}: {reason.share:+.2f}".replace("-", "\N{MINUS SIGN}")

    def state_json(self, content: Content | None = None) -> dict[str, Any]:
        """What was decided, and the work in progress."""
        listed = None if self.jobs.root is None and self.given is None else self.listed()
        content = content or (Content() if self.jobs.root is None else self.decisions.read())
        keys = {one.key: one for one in content.decisions}
        return {
            "revision": content.revision,
            "stamp": None if listed is None else listed.stamp,
            "decisions": {key: {"verdict": one.verdict, "to": one.to} for key, one in keys.items()},
            "elsewhere": 0 if listed is None else len(keys.keys() - listed.entries.keys()),
            "undo": bool(content.steps),
            "job": self.jobs.to_json(),
        }

    def decide(self, key: str, verdict: Any, to: Any) -> dict[str, Any]:
        """Writes a decision down.

        Raises:
            SegprotoError: no such region, verdict or class; or it cannot be written.
        """
        entry = self.entry(key)
        listed = self.listed()
        assert listed is not None
        made = decision_of(entry.plain() | {"verdict": verdict, "to": to}, self.dataset(listed.labels.split).classes)
        if made.value(self.dataset(listed.labels.split).classes) == made.region.label:
            raise ConfigError(f"the region is labelled {entry.label} already: dismiss it to keep the label")
        to = entry.suggested if verdict == "correct" and to is None else to
        return self.state_json(self.decisions.decide(entry, made.verdict, to))

    def undo(self, revision: int) -> dict[str, Any]:
        """Takes the last decision back, see :meth:`segproto.studio.decisions.Decisions.undo`."""
        content, key = self.decisions.undo(revision)
        return self.state_json(content) | {"undone": key}

    # Pictures.

    def region(self, key: str, how: str) -> tuple[bytes, Kind]:
        """A region with what is around it: ``part``, ``small``, or the ``whole`` image.

        Raises:
            DataError: the image or its mask is another one than when it was looked at.
        """
        entry = self.entry(key)
        decision, sample = self.decision(entry, "dismiss"), self.sample(entry.image)
        require_unchanged(decision, sample)
        picture = outlined(sample.colours, decision.region, **({"around": WHOLE} if how == "whole" else {}))
        return encoded(to_pil(picture), "jpeg", SMALL if how == "small" else SIDE), "jpeg"

    def decision(self, entry: Entry, verdict: str) -> Decision:
        """An entry as the masks are changed by it."""
        listed = self.listed()
        dataset = self.dataset("train" if listed is None else listed.labels.split)
        return decision_of(entry.plain() | {"verdict": verdict}, dataset.classes)

    def reason(self, key: str, kind: str, number: int) -> tuple[bytes, Kind]:
        """A training patch, or the patch of a prototype.

        Raises:
            DataError: there is no picture of it.
        """
        entry = self.entry(key)
        reasons = {"patches": entry.patches, "prototypes": entry.prototypes}.get(kind, [])
        if not 0 <= number < len(reasons):
            raise DataError(f"{kind} {number}: there is none")
        reason = reasons[number]
        if kind == "prototypes":
            bank = self.side.model.head.bank
            if bank is None or reason.prototype is None or reason.prototype >= bank.num_prototypes:
                raise DataError("the model has no such prototype")
            picture = stored_patch(self.side.model, source_of(self.side.model, reason.prototype))
            if picture is None:
                raise DataError(f"prototype {reason.prototype} has no picture of its training patch")
            return encoded(picture, "jpeg", PATCH), "jpeg"
        if reason.image is None or reason.box is None:
            raise DataError("where this patch lies is unknown")
        y0, x0, y1, x1 = reason.box
        return encoded(patch_picture(self.sample(reason.image).colours, (y0, x0, y1, x1)), "jpeg", PATCH), "jpeg"

    # Work.

    def find(self) -> None:
        """Starts looking for suspicious labels.

        Raises:
            SegprotoError: the list was given, there are no masks to look at, or something else is being written.
        """
        if self.given is not None:
            raise ConfigError(f"the list of {self.given} was given; start the studio without --review to make one here")
        self.dataset("train")
        side = self.side
        self.jobs.apart(
            Job("review", str(self.folder), words="reading model and images"),
            {
                "target": str(side.target),
                "out": str(self.folder),
                "count": EXPLAINED,
                "stage": side.stage,
                "overrides": side.data_overrides,
                "device": side.device,
                "shortcuts": False,
                "quiet": True,
            },
        )

    def write(self, name: str | None) -> None:
        """Starts writing masks with what was decided, in a new folder.

        Raises:
            ConfigError: nothing changes a mask, or the name is taken.
        """
        decided = self.decisions.read().decisions
        if all(one.verdict == "dismiss" for one in decided):
            raise ConfigError("no decision changes a mask: accept or correct one first")
        listed = self.listed()
        splits = self._splits("train" if listed is None else listed.labels.split)
        out, side = self.jobs.place(name, "masks"), self.side
        self.jobs.start(Job("masks", str(out), words="writing masks"), lambda: write_masks(side, splits, decided, out))
