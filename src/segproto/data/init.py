"""``data init``: a ``classes.yaml`` from what the masks of a folder hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.data.classes import usual_classes
from segproto.data.layouts.classes_text import Counts, classes_text
from segproto.data.layouts.counting import Progress, Values, count_values
from segproto.data.layouts.finding import Finding
from segproto.data.layouts.proposal import Proposal, propose
from segproto.data.look import look_at_folder
from segproto.data.roots import data_root
from segproto.data.tiff_pages import pages_in
from segproto.errors import ConfigError, DataError
from segproto.files import write

if TYPE_CHECKING:
    from segproto.data.config import DataConfig


@dataclass(frozen=True)
class Initialised:
    """A ``classes.yaml`` that was written.

    Attributes:
        path: the file.
        finding: what the folder was taken for.
        values: what its masks hold.
        proposal: what they mean.
    """

    path: Path
    finding: Finding
    values: Values
    proposal: Proposal

    def to_json(self) -> dict[str, Any]:
        """File, layout, settings, shares of classes, void values and notes."""
        counts = Counts(self.values, self.finding, self.proposal)
        return {
            "out": str(self.path),
            "layout": self.finding.line(),
            "settings": dict(self.finding.settings),
            "classes": {name: counts.share(stored) for name, stored in self.proposal.classes.items()},
            "void": list(self.proposal.void),
            "notes": [*self.finding.notes, *self.proposal.notes],
        }


def init_folder(config: DataConfig, out: Path | None = None, progress: Progress | None = None) -> Initialised:
    """Counts what all masks hold and writes what it may mean.

    Args:
        config: of the data, as for training.
        out: the file; None: ``classes.yaml`` in the folder, ``x.classes.yaml`` beside ``x.zip``.
        progress: called with (what, masks done, masks).

    Raises:
        ConfigError: the file is there already; it is never written over.
        DataError: no masks, or one that cannot be read.
    """
    root = data_root(config, archives=True)
    path = usual_classes(root) if out is None else out
    if path.exists():
        raise ConfigError(
            f"{path}: is there already and is left as it is; write another with --out FILE, or move it away"
        )
    finding = look_at_folder(config)
    masks = [mask for item in finding.masked for mask in pages_in(item.mask, config.pages)]
    if not masks:
        raise DataError(f"{root}: {finding.words}: no image has a mask")
    values = count_values(masks, progress)
    if values.problems:
        more = f" ({len(values.problems) - 1} others cannot be read either)" if len(values.problems) > 1 else ""
        raise DataError(f"{values.problems[0]}{more}")
    proposal = propose(values, finding)
    write(path, classes_text(proposal, values, finding).encode(), None)
    return Initialised(path, finding, values, proposal)
