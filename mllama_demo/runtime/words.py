"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 slot, 4 slots. plural: where it is not the noun and an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
