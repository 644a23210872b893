"""How often each page is shown what is new of an answer: as often as is pleasant to read, or as often as it keeps up with.

A page that draws more slowly than it is sent would fall behind further and further: a long conversation on an old phone. Pages
say how far behind they are, and are sent less until they have caught up.
"""

from __future__ import annotations

LATE_MS = 300.0
PUNCTUAL_MS = 120.0
SLOWER, FASTER = 0.6, 1.25
SLOWEST = 0.15


class UpdateRate:
    """The pace of every page that has been late, as a part of the best one."""

    def __init__(self) -> None:
        self._paces: dict[str, float] = {}

    def of(self, session: str) -> float:
        """From SLOWEST to 1."""
        return self._paces.get(session, 1.0)

    def heard(self, session: str, behind_ms: float) -> None:
        """How much later than at its best the page drew the newest update."""
        if behind_ms > LATE_MS:
            self._paces[session] = max(SLOWEST, self.of(session) * SLOWER)
        elif behind_ms < PUNCTUAL_MS and session in self._paces:
            self._paces[session] *= FASTER
            if self._paces[session] >= 1:
                del self._paces[session]

    def leave(self, session: str) -> None:
        self._paces.pop(session, None)
