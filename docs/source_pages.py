"""A hook of mkdocs: links to source files (``../src/segproto/x/y.py``) lead to pages of the site made from them.

In the repository such a link opens the file; on the site it opens the file's page, at the function that the link's text
names in full (``segproto.x.y.name``).
"""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[`([\w.]+)`\]\(((?:\.\./)+)src/(segproto/[\w/]+)\.py\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for every source file that a page links to."""
    sources = {match[2] for file in files.documentation_pages() for match in LINK.findall(file.content_string)}
    for source in sorted(sources):
        files.append(File.generated(config, f"source/{source}.md", content=source_page(ROOT / f"src/{source}.py")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links to source files into links to their pages."""
    up = "../" * page.file.src_uri.count("/")

    def link(match: re.Match[str]) -> str:
        return f"[`{match[1]}`]({up}source/{match[3]}.md#{match[1].rpartition('.')[2]})"

    return LINK.sub(link, markdown)


def source_page(path: Path) -> str:
    """A source file as a page: each top-level function, class and constant can be linked to by its name."""
    text = path.read_text(encoding="utf-8")
    names = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[min([node.lineno, *(d.lineno for d in node.decorator_list)])] = node.name
    lines = [
        f'<span id="{names[n]}"></span>{html.escape(line)}' if n in names else html.escape(line)
        for n, line in enumerate(text.splitlines(), 1)
    ]
    title = path.relative_to(ROOT)
    return f"---\nsearch:\n  exclude: true\n---\n\n# {title}\n\n<pre><code>" + "\n".join(lines) + "\n</code></pre>\n"
