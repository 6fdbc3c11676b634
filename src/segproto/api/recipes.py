"""The verb ``recipes``: what is shipped, and how it reads."""

from segproto.runs.catalogue import recipe_text
from segproto.runs.catalogue import summaries as recipes

__all__ = ["recipe_text", "recipes"]
