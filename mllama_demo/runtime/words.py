"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 slot, 4 slots. plural: where it is not the noun and an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def parameter_count(number: int) -> str:
    """The size of a model: 5.1 million parameters, 88.6 billion parameters."""
    count = f"{number / 10**9:.1f} billion" if number >= 10**9 else f"{number / 10**6:.1f} million"
    return f"{count} parameters"
