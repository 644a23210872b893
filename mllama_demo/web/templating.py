"""Light pages, most of which need no script and fetch nothing: a conversation to keep or to share, signing in, the operator's
page, the report of an exploration, and the frame of the Explore page.

One family of templates: base.html.jinja has the look, in light, dark and on paper. Every value is escaped unless a template
says otherwise. Knows no web framework.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from mllama_demo.config.branding import Brand

FOLDER = Path(__file__).resolve().parent / "templates"
# For pages without a script; images are in the page itself.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def render(name: str, brand: Brand, /, **values: Any) -> str:
    """The page `name` (conversation, exploration, explore, login, logout, notice, admin) with the template's values."""
    return _environment().get_template(f"{name}.html.jinja").render(brand=brand, **values)


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
