"""Prototype-based semantic segmentation that explains itself.

>>> import segproto
>>> model = segproto.load("runs/em")
>>> mask = model.predict("image.png")
>>> why = model.explain("image.png")

Everything here is loaded on first use, so ``import segproto`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segproto.api import (
        ablate_entropy,
        ablate_scales,
        ablate_thresholds,
        analyse,
        compare,
        convert,
        data_verify,
        doctor,
        edit,
        evaluate,
        explain,
        export,
        load,
        predict,
        propose,
        quickstart,
        recipes,
        score_masks,
        train,
        write_report,
    )
    from segproto.errors import SegprotoError

__version__ = "0.1.0"

__all__ = [
    "SegprotoError",
    "ablate_entropy",
    "ablate_scales",
    "ablate_thresholds",
    "analyse",
    "compare",
    "convert",
    "data_verify",
    "doctor",
    "edit",
    "evaluate",
    "explain",
    "export",
    "load",
    "predict",
    "propose",
    "quickstart",
    "recipes",
    "score_masks",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Fetches a verb from :mod:`segproto.api` when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'segproto' has no attribute {name!r}")
    if name == "SegprotoError":
        from segproto.errors import SegprotoError

        return SegprotoError
    from segproto import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
