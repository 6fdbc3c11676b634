"""HTML pages made of what others wrote: every value is escaped, and the page says which scripts may run.

The names of classes, images, stages and methods come from files that others may have written. Two measures keep
them from running as scripts: Jinja escapes them all (no template says ``safe``), and the page's Content-Security-Policy
allows the scripts with the hashes it names, pictures inside the page and nothing else, no network above all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def page_environment(*packages: str) -> Environment:
    """Jinja for the templates of packages, the first that has one: all values are escaped, a misspelt name is an error.

    Templates may use ``{{ value | embed }}`` (:func:`embed`) and ``{{ policy(script, ...) }}`` (:func:`policy`).
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader(package) for package in packages])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["embed"] = embed
    environment.globals["policy"] = policy
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment


def embed(value: Any) -> Markup:
    """JSON for a ``<script type="application/json">`` element: no ``<`` is left that could end it."""
    from markupsafe import Markup

    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def policy(*scripts: str) -> Markup:
    """The ``<meta>`` element with the page's Content-Security-Policy (https://www.w3.org/TR/CSP3).

    Args:
        scripts: what is between ``<script>`` and ``</script>``, to the letter.
    """
    from markupsafe import Markup

    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    rules = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    words = "; ".join(f"{name} {value}" for name, value in rules.items())
    return Markup('<meta http-equiv="Content-Security-Policy" content="{}">').format(words)
