"""How often each page is updated with the answer that is being written.

A page that draws more slowly than it receives updates, such as a long conversation on an old phone, would fall behind more and
more. Pages report how far they are behind, and receive fewer updates until they have caught up.
"""

from __future__ import annotations

LATE_MS = 300.0
PUNCTUAL_MS = 120.0
SLOWER, FASTER = 0.8, 1.12  # after each report; a page reports every second
SLOWEST = 0.15


class UpdateRate:
    """The rate of every page that has been late, as a fraction of the full rate."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}

    def of(self, page_id: str) -> float:
        """From SLOWEST to 1."""
        return self._rates.get(page_id, 1.0)

    def report_lag(self, page_id: str, lag_ms: float) -> None:
        """Changes the page's rate. lag_ms: how much later than its quickest update the page drew its newest one."""
        if lag_ms > LATE_MS:
            self._rates[page_id] = max(SLOWEST, self.of(page_id) * SLOWER)
        elif lag_ms < PUNCTUAL_MS and page_id in self._rates:
            self._rates[page_id] *= FASTER
            if self._rates[page_id] >= 1:
                del self._rates[page_id]

    def close_page(self, page_id: str) -> None:
        self._rates.pop(page_id, None)
