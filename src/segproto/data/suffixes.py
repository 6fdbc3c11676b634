"""Which files count as images and as masks, wherever a folder is searched."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".bmp"})
