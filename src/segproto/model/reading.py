"""Files that are to be read otherwise than those of the training: other places of bands, other pages of stacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from segproto.data.pixels import PixelRule
from segproto.data.tiff_bands import TiffBands, is_tiff
from segproto.errors import ConfigError, DataError
from segproto.model.segmenter import Segmenter

Bands = Sequence[int | str] | Literal["names"]
Pages = int | Literal["all"]


@contextmanager
def reading_by(segmenter: Segmenter, rule: PixelRule) -> Iterator[None]:
    """Inside the block the model reads files by another rule than its own."""
    own, segmenter.encoder.pixels = segmenter.encoder.pixels, rule
    try:
        yield
    finally:
        segmenter.encoder.pixels = own


def with_bands(rule: PixelRule, asked: Bands | None, file: Path | str) -> PixelRule:
    """A model's rule for a file whose bands stand elsewhere.

    Args:
        rule: the model's.
        asked: for each of the model's bands, in its order, the number (from 1) or the name of the file's band; or
            ``names``: those that the file calls as the model does. None: as in training.
        file: the image.

    Raises:
        ConfigError: another number of bands than the model sees, or one that is none.
        DataError: the file gives its bands no such names.
    """
    if asked is None:
        return rule
    own = [rule.name(band) for band in range(rule.count)]
    wanted: Sequence[int | str] = own if asked == "names" else [asked] if isinstance(asked, str) else asked
    if len(wanted) != rule.count:
        given = ",".join(map(str, wanted))
        raise ConfigError(
            f"--bands {given}: {len(wanted)} bands, but the model sees {rule.count} ({', '.join(own)}), in this order"
        )
    if bad := [band for band in wanted if isinstance(band, int) and band < 1]:
        raise ConfigError(f"--bands {bad[0]}: bands are counted from 1")
    names: list[str] = []
    if any(isinstance(band, str) for band in wanted):
        names = [name.casefold() for name in band_names(file)]
    places = []
    for band in wanted:
        if isinstance(band, str) and names.count(band.casefold()) != 1:
            stated = ", ".join(names) if names else "nothing"
            raise DataError(
                f"{file}: no band is called {band}: the file calls them {stated}; give numbers: --bands 1,2,3"
            )
        places.append(names.index(band.casefold()) + 1 if isinstance(band, str) else band)
    return replace(rule, bands=tuple(places))


def band_names(file: Path | str) -> tuple[str, ...]:
    """What a TIFF calls its bands; empty if it says nothing, or is none."""
    return TiffBands(Path(file), 1).names if is_tiff(Path(file)) else ()


def order_note(rule: PixelRule, file: Path) -> str | None:
    """A note on a file that has the model's bands by their names, in another order than the model takes them."""
    if not (rule.names and rule.bands):
        return None
    try:
        names = [name.casefold() for name in band_names(file)]
    except DataError:  # told when it is read
        return None
    own = [name.casefold() for name in rule.names]
    taken = [names[band - 1] if band <= len(names) else "none" for band in rule.bands]
    if taken == own or not {*own} <= {*names}:
        return None
    return (
        f"{file}: its bands {', '.join(map(str, rule.bands))} are called {', '.join(taken)}, and the model takes them "
        f"for {', '.join(rule.names)}; --bands names goes by their names"
    )
