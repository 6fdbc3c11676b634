"""``python -m segproto.cli``."""

from segproto.cli.main import main

main()
