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


@contextmanager
def studio(run: Path, *more: str) -> Iterator[str]:
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
                yield found[0]
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        process.terminate()
        process.wait(20)
    assert not [line for line in lines if "Traceback" in line], "".join(lines)
