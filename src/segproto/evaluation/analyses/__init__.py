"""The papers' analyses: each gives arrays, pictures and JSON, from Python and the command line."""
