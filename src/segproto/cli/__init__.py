"""The command line: one command per verb of :mod:`segproto.api`."""
