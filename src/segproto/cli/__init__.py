"""The command line: one command a verb of :mod:`segproto.api`."""
