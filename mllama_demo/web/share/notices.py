"""The page that a link of a shared conversation or run shows when there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from mllama_demo.config.branding import Brand
from mllama_demo.errors import DemoError, NotFound
from mllama_demo.runtime.failures import report_failure
from mllama_demo.storage.share_links import ShareGone
from mllama_demo.web.requests import notice_page


def share_notice(brand: Brand, error: DemoError, headers: Mapping[str, str]) -> Response:
    """A page that says why the link shows nothing: it has ended, it never was, or the database does not answer.

    Args:
        error: Why; its status is that of the page.
        headers: More headers of the response.
    """
    heading = "Not now"
    if isinstance(error, ShareGone):
        heading = "This link is over"
    elif isinstance(error, NotFound):
        heading = "Nothing is shared here"
    return notice_page(brand, heading, report_failure(error), error.status, headers=dict(headers))
