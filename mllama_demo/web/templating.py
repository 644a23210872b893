"""Renders the HTML pages beside the chat from the Jinja templates of every feature. Knows no web framework.

Each feature keeps its templates in its own folder. "web/base" is the skeleton of every page; "web/page" adds a look with light,
dark and print colours. Values are escaped unless a template marks them as safe.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from mllama_demo.config.branding import Brand

_PACKAGE = Path(__file__).resolve().parents[1]
# The first part of a template's name: the folder that has the folder "templates".
_FEATURES = {
    "web": "web",
    "auth": "web/auth",
    "admin": "web/admin",
    "share": "web/share",
    "guide": "web/guide",
    "explore": "explore/web",
    "present": "present/web",
}
# The Content-Security-Policy of pages without scripts, whose images are data: URLs.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def render(template: str, brand: Brand, /, **values: Any) -> str:
    """Returns a page as HTML.

    Args:
        template: feature and name, such as "auth/login" for web/auth/templates/login.html.jinja.
        values: the variables of the template; one that is missing raises jinja2.UndefinedError.
    """
    return _environment().get_template(f"{template}.html.jinja").render(brand=brand, **values)


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, PrefixLoader, StrictUndefined

    loader = PrefixLoader({name: FileSystemLoader(_PACKAGE / folder / "templates") for name, folder in _FEATURES.items()})
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
