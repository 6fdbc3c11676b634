"""The version, on the lowest floor: everything may say it."""

__version__ = "0.1.0"
