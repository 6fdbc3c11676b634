"""The studio as a command of its own, for tests that talk to it as a browser or a stranger does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/\S+/")


class Address(str):
    """Where a studio is, and its process."""

    process: subprocess.Popen[str]


@contextmanager
def studio(run: Path, *more: str) -> Iterator[Address]:
    """Starts ``segproto studio`` and gives its address; ends it afterwards."""
    command = [sys.executable, "-m", "segproto.cli", "studio", str(run), *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := ADDRESS.search(line):
                threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True).start()
                address = Address(found[0])
                address.process = process
                yield address
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        process.terminate()
        process.wait(20)
    assert not [line for line in lines if "Traceback" in line], "".join(lines)
