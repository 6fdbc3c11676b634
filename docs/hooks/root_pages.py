"""A hook of mkdocs: pages of the repository's root on the site, and a link to where this clone came from."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"CONTRIBUTING.md": "contributing", "SECURITY.md": "security", "CHANGELOG.md": "changelog"}


def on_config(config: Any) -> Any:
    """The repository link is the remote that was cloned; without one there is no link."""
    if not config.repo_url:
        ask = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
        config.repo_url = web_address(answer.stdout.strip())
        config.repo_name = "Repository" if config.repo_url else None
    return config


def web_address(remote: str) -> str | None:
    """``git@host:me/it.git`` and ``https://name:key@host/me/it.git`` to ``https://host/me/it``; None for a folder."""
    match = re.fullmatch(r"(?:(?:https?|ssh|git)://)?(?:[^@/]+@)?([\w.-]+\.\w+)(?::\d+)?[:/](.+?)(?:\.git)?/?", remote)
    return f"https://{match[1]}/{match[2]}" if match and not remote.startswith((".", "/")) else None


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages, with links as seen from their new place."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        text = re.sub(r"\]\(docs/", "](../", text).replace(
            "](LICENSE)", "](https://www.apache.org/licenses/LICENSE-2.0)"
        )
        files.append(File.generated(config, f"development/{page}.md", content=text))
    return files
