"""Images of a small set are decoded once: later epochs and stages take them from memory."""

from __future__ import annotations

from segproto.data.base import Sample, SegmentationDataset

LIMIT = 2**28  # bytes of images and masks in a process, as the first one counts for all


class Decoded:
    """Samples of a data set as :meth:`SegmentationDataset.__getitem__` gives them, kept if all of them are small.

    Args:
        dataset: images that do not change.
        processes: that keep samples of it side by side.
    """

    def __init__(self, dataset: SegmentationDataset, processes: int = 1) -> None:
        self.dataset, self.room = dataset, LIMIT // processes
        self._kept: dict[int, Sample] = {}
        self._small: bool | None = None  # not known before an image was read

    def __getitem__(self, index: int) -> Sample:
        """A sample of its own: what is done to it is not done to the next one of the image."""
        kept = self._kept.get(index)
        if kept is None:
            sample = self.dataset[index]
            size = sample.image.nbytes + sample.mask.nbytes
            if self._small is None:
                self._small = size * len(self.dataset) <= self.room
            if not self._small or size > self.room:
                return sample
            self.room -= size
            kept = self._kept[index] = sample
        return kept._replace(image=kept.image.clone(), mask=kept.mask.clone())
