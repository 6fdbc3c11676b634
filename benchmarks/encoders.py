"""Images per second through each encoder (backbone and ASPP, no gradient), and through the backbone in bfloat16.

OMP_NUM_THREADS=2 PYTHONPATH=src python benchmarks/encoders.py [cuda]
"""

from __future__ import annotations

import sys
import time

import torch

from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig

VIT = {"backbone": "vit_tiny_patch16_224"}
CASES: list[tuple[dict[str, object], tuple[int, int]]] = [
    ({"name": "unet", "width": 8, "output_stride": 4}, (128, 128)),
    ({"name": "unet", "width": 16}, (512, 512)),
    ({"name": "unet"}, (512, 512)),
    ({"name": "deeplabv2_resnet101"}, (513, 513)),
    ({"backbone": "resnet50", "output_stride": 8}, (360, 480)),
    (VIT, (360, 480)),
    (VIT | {"input_scale": 1.5}, (360, 480)),
    (VIT | {"input_scale": 2.0}, (360, 480)),
]


def images_per_second(encoder: torch.nn.Module, images: torch.Tensor, bf16: bool, seconds: float = 3) -> float:
    """Repeats for some seconds after one warm-up call."""
    device = images.device.type
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        encoder(images).sum().item()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            encoder(images).sum().item()
            count += len(images)
    return count / (time.perf_counter() - start)


def main() -> None:
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    batch = 1 if device == "cpu" else 8
    for settings, size in CASES:
        torch.manual_seed(0)
        encoder = build_encoder(EncoderConfig(**settings)).eval().to(device)  # type: ignore[arg-type]
        images = torch.randn(batch, 3, *size, device=device)
        plain, half = (images_per_second(encoder, images, bf16) for bf16 in (False, True))
        label = " ".join(f"{k}={v}" for k, v in settings.items())
        print(f"{label:55s} {size[0]}x{size[1]}  fp32 {plain:7.2f}  bf16 {half:7.2f} images/s")


if __name__ == "__main__":
    main()
