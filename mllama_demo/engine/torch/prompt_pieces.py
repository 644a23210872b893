"""Divides a prompt into pieces, and names each piece by all that its keys and values depend on. Knows no torch.

The bounds of the pieces are multiples of PIECE_TOKENS, whatever was read before. A piece is therefore always computed with the
same shapes, so that its keys and values are equal to the last bit whenever the piece is read.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

PIECE_TOKENS = 32


@dataclass(frozen=True)
class Piece:
    """The tokens [start, end) of a prompt.

    Attributes:
        key: A digest of the tokens [0, end), and of the image if its token is among them. Pieces with the same key have the same
            keys and values.
        sees_image: The image token is among the tokens [0, end).
    """

    start: int
    end: int
    key: bytes
    sees_image: bool


def divide(prompt_ids: Sequence[int], image_at: int | None, image_digest: str) -> list[Piece]:
    """Returns the pieces of a prompt, in order. The last one has the rest of the tokens.

    Args:
        image_at: The position of the image token; None without an image.
    """
    pieces: list[Piece] = []
    key = b""
    for start in range(0, len(prompt_ids), PIECE_TOKENS):
        ids = prompt_ids[start : start + PIECE_TOKENS]
        end = start + len(ids)
        image = image_digest if image_at is not None and start <= image_at < end else ""
        text = array("q", ids).tobytes()
        key = hashlib.sha256(key + f"{len(image)}:{image}".encode() + text).digest()
        pieces.append(Piece(start, end, key, sees_image=image_at is not None and image_at < end))
    return pieces
