"""Which files count as images and as masks, wherever a folder is searched."""

from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".bmp"})
LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg", ".webp"})  # of masks, whose values were changed a little
ODD_MASK_SUFFIXES = frozenset({".gif"}) | LOSSY_SUFFIXES  # masks only where there are none of MASK_SUFFIXES
PICTURE_SUFFIXES = IMAGE_SUFFIXES | MASK_SUFFIXES | ODD_MASK_SUFFIXES


def is_hidden(path: Path) -> bool:
    """Whether a path below a folder is a hidden file or lies in a hidden folder."""
    return any(part.startswith(".") for part in path.parts)


def is_picture(path: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> bool:
    """Whether a path found in a folder counts: of such a suffix, not hidden (``._x.png`` is no picture), no folder."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and not path.is_dir()
