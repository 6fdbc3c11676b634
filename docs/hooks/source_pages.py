"""A hook of mkdocs: links to source files (``../src/segproto/x/y.py``) lead to pages of the site.

In the repository such a link opens the file. On the site it opens the function that the link's text names in full
(``segproto.x.y.name``): in the API reference if its module is there, else on a page made from the file.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[`([\w.]+)`\]\(((?:\.\./)+)src/(segproto/[\w/]+)\.py\)")
REFERENCE = re.compile(r"segproto/((?:prototypes|refine|metrics|model)/[a-z]\w*)")


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for every source file that a page links to and that has none in the reference."""
    sources = {match[2] for file in files.documentation_pages() for match in LINK.findall(file.content_string)}
    for source in sorted(sources):
        if not REFERENCE.fullmatch(source):
            page = source_page(ROOT / f"src/{source}.py")
            files.append(File.generated(config, f"source/{source}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links to source files into links to pages."""
    up = "../" * page.file.src_uri.count("/")

    def link(match: re.Match[str]) -> str:
        name, _, source = match.groups()
        if inside := REFERENCE.fullmatch(source):
            return f"[`{name}`]({up}reference/{inside[1]}.md#{name})"
        return f"[`{name}`]({up}source/{source}.md#{name.rpartition('.')[2]})"

    return LINK.sub(link, markdown)


def source_page(path: Path) -> str:
    """A source file as a page: each top-level function and class can be linked to by its name."""
    text = path.read_text(encoding="utf-8")
    names = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[min([node.lineno, *(d.lineno for d in node.decorator_list)])] = node.name
    lines = highlight(text, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).splitlines()
    marked = [f'<span id="{names[n]}"></span>{line}' if n in names else line for n, line in enumerate(lines, 1)]
    code = "\n".join(marked)
    title = path.relative_to(ROOT)
    head = "---\nsearch:\n  exclude: true\nhide: [toc]\n---\n"
    return f'{head}\n# {title}\n\n<div class="highlight"><pre><code>{code}\n</code></pre></div>\n'
