"""Which mask belongs to which image, when only their names tell: ``img_1.jpg`` and ``mask_1.png``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

SEPARATORS = "_-. "
SAMPLES = 5  # images whose names are compared with those of masks
MOST_MASKS = 300  # masks that each of them is compared with
ENOUGH = 0.5  # of the images must find a mask by a rule


@dataclass(frozen=True, order=True)
class Affixes:
    """What image and mask names have around what they have in common.

    Attributes:
        length: characters of all four; the shorter the better.
        image_prefix: before the common name of an image.
        image_suffix: after it.
        mask_prefix: before the common name of a mask.
        mask_suffix: after it.
    """

    length: int
    image_prefix: str = ""
    image_suffix: str = ""
    mask_prefix: str = ""
    mask_suffix: str = ""

    def image_name(self, stem: str) -> str | None:
        """The common name of an image; None if it is not so named."""
        return _core(stem, self.image_prefix, self.image_suffix)

    def mask_name(self, stem: str) -> str | None:
        """The common name of a mask; None if it is not so named."""
        return _core(stem, self.mask_prefix, self.mask_suffix)


SAME = Affixes(0)


def _core(stem: str, prefix: str, suffix: str) -> str | None:
    if len(stem) <= len(prefix) + len(suffix) or not (stem.startswith(prefix) and stem.endswith(suffix)):
        return None
    return stem[len(prefix) : len(stem) - len(suffix)]


def rules(images: Sequence[str], masks: Sequence[str]) -> list[Affixes]:
    """The rules by which most images find a mask, best first; several only if they give an image different masks.

    Args:
        images: stems.
        masks: stems.
    """
    images, masks = sorted(images), sorted(masks)
    if len(_matched(images, masks, SAME)) >= ENOUGH * max(len(images), 1):
        return [SAME] if images else []
    scored: dict[tuple[tuple[str, str], ...], Affixes] = {}
    coverage: dict[tuple[tuple[str, str], ...], float] = {}
    for rule in _frequent(images, masks):
        matches = _matched(images, masks, rule)
        matched_part = len(matches) / len(images) if images else 0.0
        key = tuple(sorted(matches.items()))
        if matched_part >= ENOUGH and key not in scored:
            scored[key], coverage[key] = rule, matched_part
    if not scored:
        return []
    best = max(coverage.values())
    return sorted(scored[key] for key in scored if coverage[key] >= 0.9 * best)


def _matched(images: Sequence[str], masks: Sequence[str], rule: Affixes) -> dict[str, str]:
    by_name = {name: stem for stem in masks if (name := rule.mask_name(stem)) is not None}
    pairs = ((stem, rule.image_name(stem)) for stem in images)
    return {stem: by_name[name] for stem, name in pairs if name is not None and name in by_name}


def _frequent(images: Sequence[str], masks: Sequence[str]) -> list[Affixes]:
    """The rules that most of some images would have with a mask each, the shortest first."""
    step = max(len(images) // SAMPLES, 1)
    places = range(0, len(images), step)[:SAMPLES]
    counts = Counter(rule for position in places for rule in {*_candidates(images, position, masks)})
    return sorted(rule for rule, count in counts.items() if count >= ENOUGH * len(places))


def _candidates(images: Sequence[str], position: int, masks: Sequence[str]) -> Iterator[Affixes]:
    """What is left of an image's and a mask's name around what they share, for masks that may be the image's."""
    image = images[position]
    numbers = re.findall(r"\d+", image)
    near = [mask for mask in masks if image in mask or mask in image]
    near += [mask for mask in masks if numbers and numbers[-1] in re.findall(r"\d+", mask)]
    middle = position * len(masks) // len(images)  # both are sorted: the partner lies at about the same place
    for mask in (near or masks[max(middle - MOST_MASKS // 2, 0) : middle + MOST_MASKS // 2])[:MOST_MASKS]:
        block = SequenceMatcher(None, image, mask, autojunk=False).find_longest_match()
        if block.size == 0:
            continue
        core = _at_boundaries(image, mask, block.a, block.b, block.size)
        if core is not None:
            a, b, size = core
            around = (image[:a], image[a + size :], mask[:b], mask[b + size :])
            yield Affixes(sum(map(len, around)), *around)


def _at_boundaries(image: str, mask: str, a: int, b: int, size: int) -> tuple[int, int, int] | None:
    """A common part, cut back so that it neither begins nor ends within a word or a number, nor with a separator."""
    while size and (image[a] in SEPARATORS or _within(image, a) or _within(mask, b)):
        a, b, size = a + 1, b + 1, size - 1
    while size and (image[a + size - 1] in SEPARATORS or _within(image, a + size) or _within(mask, b + size)):
        size -= 1
    return (a, b, size) if size else None


def _within(text: str, position: int) -> bool:
    """Whether a cut before ``place`` would divide a word or a number."""
    if not 0 < position < len(text):
        return False
    before, after = text[position - 1], text[position]
    return (before.isalpha() and after.isalpha()) or (before.isdigit() and after.isdigit())
