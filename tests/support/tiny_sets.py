"""A small labelled set whose masks follow a model but for noise."""

from __future__ import annotations

import torch
from tiny_segmenters import image

from segproto.data.base import Sample, SegmentationDataset

SIZES = [(40, 52), (33, 60), (24, 24), (50, 31), (41, 41)]


class Tiny(SegmentationDataset):
    """Images of several sizes; labels follow the model but for noise and void."""

    split = "val"

    def __init__(self, model, count=5):
        self.classes = model.classes
        self.names = [f"set/{i}" for i in range(count)]
        self._samples = []
        for i in range(count):
            pixels = image(*SIZES[i], seed=i)
            generator = torch.Generator().manual_seed(i)
            noise = torch.rand(SIZES[i], generator=generator)
            with torch.no_grad():
                mask = model(model.encoder.normalisation(pixels)[None])[0].argmax(0)
            other = torch.randint(3, SIZES[i], generator=generator)  # class 3 only where the model says so
            mask = torch.where(noise < 0.4, other, mask)
            self._samples.append(Sample(pixels, torch.where(noise > 0.9, 255, mask).to(torch.uint8), self.names[i]))

    def __getitem__(self, index):
        return self._samples[index]

    @property
    def fingerprint(self):
        return "tiny"
