"""A run folder on disk: find it, read it, resolve its recipe, load its model."""
