"""Class activation maps of an image behind the backbone, at four scales and mirrored, against the published code.

    python benchmarks/cams.py [--runs 2]

Features of a 375 x 500 image at stride 8 (random, of fewer channels than ResNet-38's), three tagged classes of 20.
Published (SEAM, contrast_infer.py): each view alone, pixel correlation of all classes over the whole matrix, all maps
enlarged to the view and then to the image. The backbone, which is most of the time, is the same in both and left out.
Processor time of one thread.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from common import best_ms
from torch import Tensor, nn

from segproto.data.base import ClassTable
from segproto.encoders.base import IMAGENET, Backbone, Encoder
from segproto.encoders.config import EncoderConfig
from segproto.methods.pixelcontrast.config import CamsConfig
from segproto.methods.pixelcontrast.infer import add_views
from segproto.model.segmenter import Segmenter
from segproto.model.tap_head import TapHead

SIZE, SCALES, CLASSES, TAPS = (375, 500), (0.5, 1.0, 1.5, 2.0), (3, 7, 12), (3, 64, 128, 512)


class Given(Backbone):
    """Random features, the same for images of the same size; no work to speak of."""

    num_features, stride, stride_multiple, normalisation, any_size = sum(TAPS), 8, 8, IMAGENET, True

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[tuple[int, ...], Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        size = (-(-images.shape[2] // 8), -(-images.shape[3] // 8))
        if size not in self.known:
            self.known[size] = torch.randn(2, sum(TAPS), *size)
        return self.known[size][: len(images)] if len(images) == 2 else self.known[size]


def published(head: TapHead, features: Given, tags: Tensor) -> Tensor:
    """Sums of the refined maps (20, H, W)."""
    total = torch.zeros(20, *SIZE)
    for scale in SCALES:
        seen = (round(SIZE[0] * scale), round(SIZE[1] * scale))
        for flip, x in enumerate(features(torch.zeros(2, 3, *seen)).split(1)):
            image, conv4, conv5, conv6 = x.split_with_sizes(TAPS, 1)
            cam = head.fc8(conv6)
            F.relu(head.fc_proj(conv6))
            n, c, h, w = cam.shape
            d = F.relu(cam)
            high = d.view(n, c, -1).max(-1)[0].view(n, c, 1, 1) + 1e-5
            norm = F.relu(d - 1e-5) / high
            norm[:, 0] = 1 - norm[:, 1:].max(1)[0]
            norm[:, 1:][norm[:, 1:] < norm[:, 1:].max(1, keepdim=True)[0]] = 0
            f = head.f9(torch.cat([image, F.relu(head.f8_3(conv4)), F.relu(head.f8_4(conv5))], 1)).view(n, -1, h * w)
            f = f / (f.norm(dim=1, keepdim=True) + 1e-5)
            alike = F.relu(torch.matmul(f.transpose(1, 2), f))
            alike = alike / (alike.sum(1, keepdim=True) + 1e-5)
            refined = torch.matmul(norm.view(n, c, -1), alike).view(n, c, h, w)
            F.interpolate(cam, seen, mode="bilinear", align_corners=True)
            refined = F.interpolate(refined, seen, mode="bilinear", align_corners=True)
            refined = F.interpolate(refined, SIZE, mode="bilinear", align_corners=False)[0, 1:]
            total += (refined.flip(-1) if flip else refined) * tags[:, None, None]
    return total


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given, config = Given(), EncoderConfig(name="resnet38d_taps", neck="identity", squash="none")
    head = TapHead(21, 128, taps=TAPS).eval()
    table = ClassTable(tuple(map(str, range(21))), ((0, 0, 0),) * 21)
    model = Segmenter(Encoder(given, nn.Identity(), (21,), IMAGENET, config, 8), head, table).eval()
    image, tags = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8), torch.zeros(20)
    tags[[c - 1 for c in CLASSES]] = 1
    cams = CamsConfig(scales=list(SCALES), enlarge="align_corners", pad=False)

    def ours() -> Tensor:
        total = torch.zeros(len(CLASSES), *SIZE)
        add_views(total, model, image, CLASSES, cams, "refined")
        return total

    wanted = published(head, given, tags)[[c - 1 for c in CLASSES]]
    apart = float((ours() - wanted).abs().max() / wanted.abs().max())
    assert apart < 1e-4, apart
    slow, fast = best_ms(lambda: published(head, given, tags), args.runs), best_ms(ours, args.runs)
    print(f"published {slow:.0f} ms, ours {fast:.0f} ms ({slow / fast:.2f}x); largest difference {apart:.1e}")


if __name__ == "__main__":
    main()
