"""Images without masks, with those that a model gives them: what an edit changes can be told without labels."""

from __future__ import annotations

from pathlib import Path

from segproto.data.base import Sample, SegmentationDataset
from segproto.model.predict import predict
from segproto.model.segmenter import Segmenter


class AnsweredMasks(SegmentationDataset):
    """Another data set's images with a model's own answers as their masks.

    Args:
        whole: the other data set.
        model: on any device.
    """

    def __init__(self, whole: SegmentationDataset, model: Segmenter) -> None:
        self.whole, self.model, self.classes = whole, model, model.classes
        self.split, self.names = whole.split, whole.names

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        return sample._replace(mask=predict(self.model, sample.image))

    def path(self, index: int) -> Path | None:
        return self.whole.path(index)

    def stamp(self, index: int) -> str:
        return self.whole.stamp(index)

    @property
    def fingerprint(self) -> str:
        return self.whole.fingerprint
