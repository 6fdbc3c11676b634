"""Errors meant for people: one clear line, shown without a traceback."""

from __future__ import annotations


class SegprotoError(Exception):
    """Something the user can mend. The message names the file, the value, what was expected and the fix."""


class ConfigError(SegprotoError):
    """A recipe or an option is wrong."""


class DataError(SegprotoError):
    """A data set, an image, a mask or a list is wrong or missing."""


class WeightsError(SegprotoError):
    """A weights file or a model artefact is wrong or missing."""
