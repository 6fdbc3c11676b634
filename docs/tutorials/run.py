"""Executes the tutorials; from the command line also keeps their outputs.

python docs/tutorials/run.py [NAME.ipynb ...]
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))


def execute(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """Runs a notebook in a folder; the files it makes stay there.

    Args:
        notebook: to run.
        folder: an empty one; what the notebook imports is copied to it.

    Returns:
        The notebook with its outputs, without anything that differs from run to run.

    Raises:
        CellExecutionError: a cell failed.
    """
    shutil.copy(HERE / "seaside.py", folder)
    content = nbformat.read(notebook, as_version=4)
    own = {"IPYTHONDIR": str(folder / ".ipython"), "JUPYTER_RUNTIME_DIR": str(folder / ".jupyter")}
    commands = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # segproto, for %%bash
    with mock.patch.dict(os.environ, own | commands):
        place = {"metadata": {"path": str(folder)}}
        NotebookClient(content, timeout=900, kernel_name="python3", resources=place, coalesce_streams=True).execute()
    for cell in content.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [kept(output, folder) for output in cell.outputs if output.get("name") != "stderr"]
    content.metadata.pop("widgets", None)
    return content


def kept(output: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """An output as it is stored: text plain and relative to the folder, pictures of at most 256 colours."""
    if "metadata" in output:
        output.metadata = {}
    data = output.get("data", {})
    for holder, key in ((output, "text"), (data, "text/plain")):
        if key in holder:
            holder[key] = re.sub(r"\x1b\[[\d;]*m", "", holder[key]).replace(f"{folder}/", "")
    if "image/png" in data:
        picture, small = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))), io.BytesIO()
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        data["image/png"] = base64.b64encode(small.getvalue()).decode()
    return output


def main() -> None:
    """Executes the notebooks named, or all, and writes them with their outputs."""
    for notebook in [HERE / name for name in sys.argv[1:]] or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(notebook, Path(folder).resolve()), notebook)
        print(notebook.name, f"{notebook.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
