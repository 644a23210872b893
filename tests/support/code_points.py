"""A tokenizer as simple as can be, for tests that need no checkpoint."""

from __future__ import annotations

SPECIAL = 0xE000


class CodePoints:
    """Every character is a token. Special tokens are private-use characters from SPECIAL on, and have no text."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def special_id(self, name: str) -> int:
        if name not in self._names:
            self._names.append(name)
        return SPECIAL + self._names.index(name)

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if SPECIAL <= token_id < 0xF900 else chr(token_id).encode()
