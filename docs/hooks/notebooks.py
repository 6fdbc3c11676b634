"""A hook of mkdocs: each tutorial, a notebook, as a page with its stored outputs and a link to download it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for every notebook, and its pictures."""
    for notebook in sorted(TUTORIALS.glob("*.ipynb")):
        text, pictures = page(json.loads(notebook.read_text(encoding="utf-8")), notebook.stem)
        for name, content in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
        files.append(File.generated(config, f"tutorials/{notebook.stem}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links from page to page lead to the pages of notebooks, not to the notebooks."""
    return re.sub(r"\]\(([\w/.-]*)\.ipynb\)(?!\{)", r"](\1.md)", markdown)


def page(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook, and the pictures it shows by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        language, code = ("bash", source.partition("\n")[2]) if source.startswith("%%bash") else ("python", source)
        parts.append(f"```{language}\n{code}\n```")
        for output in cell["outputs"]:
            if "image/png" in (data := output.get("data", {})):
                picture = f"{name}-{len(pictures) + 1}.png"
                pictures[picture] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![output]({picture})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))).strip("\n"):
                parts.append(f"```{{.text .output}}\n{text}\n```")
    note = f"[Download this notebook]({name}.ipynb){{ .download }}"
    return "\n\n".join([*parts[:1], note, *parts[1:]]) + "\n", pictures
