"""What a bug report needs: versions, processors, memory and extras."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from segproto.errors import ConfigError
from segproto.places import cache_root

PACKAGES = ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "safetensors")
EXTRAS = ("tensorboard", "wandb")


def doctor() -> dict[str, str]:
    """Facts about this installation and machine, in the order to print them."""
    import torch

    from segproto.version import __version__

    facts = {"segproto": __version__, "python": sys.version.split()[0], "system": platform.platform()}
    facts |= {name: installed(name) or "missing: install segproto again" for name in PACKAGES}
    facts["cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    facts["torch threads"] = f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')})"
    facts["train.precision=auto"] = precision()
    facts["memory"] = memory()
    facts["GPU"] = gpus()
    for name in EXTRAS:
        facts[name] = installed(name) or f"not installed (optional: pip install 'segproto[{name}]')"
    facts["SEGPROTO_DATA"] = os.environ.get("SEGPROTO_DATA", "unset")
    facts["SEGPROTO_CACHE"] = str(cache_root() or "unset")
    return facts


def precision() -> str:
    """What ``auto`` becomes here, and why."""
    from segproto.training.config import TrainConfig
    from segproto.training.precision import settle

    try:
        setting = settle(TrainConfig(precision="auto"))
    except ConfigError as error:
        return str(error)
    return f"{setting.precision}, for {setting.reason}"


def installed(name: str) -> str | None:
    """A distribution's version, None if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def memory() -> str:
    """Physical memory in GiB, and what is available where the system says so."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    page = os.sysconf("SC_PAGE_SIZE")
    text = f"{os.sysconf('SC_PHYS_PAGES') * page / 2**30:.1f} GiB"
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        text += f", {os.sysconf('SC_AVPHYS_PAGES') * page / 2**30:.1f} GiB free"
    return text


def gpus() -> str:
    """Names and memory of the CUDA devices."""
    import torch

    if not torch.cuda.is_available():
        return "none (training runs on the CPU)"
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{d.name} ({d.total_memory / 2**30:.0f} GiB)" for d in devices)
