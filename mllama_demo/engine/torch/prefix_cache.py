"""Finds the beginning of a prompt among what was read before: in the rows of the slots, and in a store of bounded size.

A row keeps the keys and values of its last sequence until another sequence overwrites them. What is overwritten goes to the
store, and the least recently used entries of a full store are deleted. An entry is a piece of a prompt or an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from cachetools import LRUCache

from mllama_demo.engine.torch.kv_cache import SlotCache
from mllama_demo.engine.torch.prompt_pieces import PIECE_TOKENS, Piece


@dataclass
class _Contents:
    """What the row of a slot has.

    Attributes:
        pieces: Its pieces, from position 0 on.
        logits: [vocabulary] after the last of them; None unless that piece ends a prompt.
        image: The digest of the image whose keys and values the row has; empty if none.
        taken: The number of the request that took the slot last.
    """

    pieces: list[Piece] = field(default_factory=list)
    logits: Any = None
    image: str = ""
    taken: int = 0

    def common(self, pieces: Sequence[Piece]) -> int:
        """Returns how many of `pieces`, from the first on, the row has."""
        count = 0
        for own, piece in zip(self.pieces, pieces, strict=False):
            if own.key != piece.key:
                break
            count += 1
        return count

    def has(self, index: int, piece: Piece) -> bool:
        return index < len(self.pieces) and self.pieces[index].key == piece.key


@dataclass(frozen=True)
class _Copied:
    """Keys and values of a piece or of an image, in a row or in the store.

    Attributes:
        layers: [kv_heads, n, head_dim], keys and values of each layer.
        logits: [vocabulary] after a piece that ended a prompt.
        tile_mask: [tiles] bool, of an image.
    """

    layers: Sequence[torch.Tensor]
    logits: Any = None
    tile_mask: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers) + (0 if self.logits is None else self.logits.nbytes)


@dataclass(frozen=True)
class Found:
    """What a slot has of a new prompt.

    Attributes:
        pieces: How many pieces, from the first on, need not be read.
        image: The row has the image's keys and values.
        logits: [vocabulary] after the prompt if no piece must be read, otherwise None.
    """

    pieces: int
    image: bool
    logits: Any


class PrefixCache:
    """What the rows of a SlotCache have, and the store. Not thread-safe."""

    def __init__(self, cache: SlotCache, tile_masks: torch.Tensor, limit: int) -> None:
        """
        Args:
            tile_masks: [slots, tiles] bool, the tiles of the image in each row.
            limit: Bytes of the store. 0 switches the whole cache off, also the reuse of what is in a row.
        """
        self._cache, self._tile_masks = cache, tile_masks
        self._limit = limit
        self._slots = [_Contents() for _ in range(len(tile_masks))]
        self._store: LRUCache[bytes | str, _Copied] = LRUCache(limit, getsizeof=lambda copied: copied.nbytes)
        self._requests = 0

    @property
    def stored_bytes(self) -> int:
        return int(self._store.currsize)

    # --- for a new request ----------------------------------------------------------------------------------------------

    def best_slot(self, free: Iterable[int], pieces: Sequence[Piece], image: str) -> int:
        """Returns the free slot that loses nothing and keeps most; if each would lose something, the least recently used one.

        Args:
            image: The digest of the request's image; empty without one.
        """

        def rank(slot: int) -> tuple[bool, int, int, int]:
            own = self._slots[slot]
            kept = own.common(pieces)
            # A piece that ended a prompt is short, or the conversation goes on behind it.
            end = len(own.pieces) - (own.logits is not None)
            loses = any(not self._is_elsewhere(slot, index) for index in range(kept, end))
            if image and own.image not in ("", image):
                loses = loses or self._image_elsewhere(slot, own.image) is None
            gain = 0 if loses else kept * PIECE_TOKENS + (bool(image) and own.image == image)
            return loses, -gain, own.taken, slot

        return min(free, key=rank)

    def take(self, slot: int, pieces: Sequence[Piece], image: str) -> Found:
        """Prepares a free slot for a prompt: stores what the row will lose, and copies into the row what is elsewhere."""
        own = self._slots[slot]
        self._requests += 1
        own.taken = self._requests
        kept = own.common(pieces)
        copies = self._find(slot, pieces, kept)
        logits = self._logits_after(pieces) if kept + len(copies) == len(pieces) else None
        if logits is None and kept + len(copies) == len(pieces):  # the last piece is read again, for its logits
            kept, copies = min(kept, len(pieces) - 1), copies[:-1]
        image_copy = self._image_elsewhere(slot, image) if image and own.image != image else None
        self._save_pieces(slot, kept)
        own.pieces, own.logits = own.pieces[:kept], None  # also if a copy fails half-way
        for piece, copied in zip(pieces[kept:], copies, strict=False):
            _copy(copied.layers, self._cache.token_views(slot, piece.start, piece.end))
        own.pieces, own.logits = [*pieces[: kept + len(copies)]], logits
        if image and own.image != image:
            self._save_image(slot)
            own.image = ""
            if image_copy is not None and image_copy.tile_mask is not None:
                _copy(image_copy.layers, self._cache.image_views(slot))
                self._tile_masks[slot] = image_copy.tile_mask
                own.image = image
        return Found(len(own.pieces), bool(image) and own.image == image, logits)

    # --- what has been computed -----------------------------------------------------------------------------------------

    def add_piece(self, slot: int, piece: Piece, logits: Any) -> None:
        """The row has the next piece. logits: [vocabulary] after it if it ends the prompt, otherwise None."""
        if self._limit:
            own = self._slots[slot]
            own.pieces.append(piece)
            own.logits = logits

    def add_image(self, slot: int, image: str) -> None:
        """The row has the keys and values of the image."""
        if self._limit:
            self._slots[slot].image = image

    def add_answer(self, slot: int, pieces: Sequence[Piece]) -> None:
        """The row has these whole pieces. The first of them are those of the prompt, the others end with tokens of an answer."""
        own = self._slots[slot]
        kept = own.common(pieces)
        if own.logits is not None and kept < len(pieces):
            self._save_pieces(slot, kept)  # the end of the prompt, for the same prompt again
            own.pieces, own.logits = [*pieces], None

    def forget(self, slot: int) -> None:
        """Forgets what the row of a slot has, also where others have it, and empties the row.

        For a sequence whose numbers are not finite while those of others are: what it has read may be the cause.
        """
        own = self._slots[slot]
        image, pieces = own.image, {piece.key for piece in own.pieces}
        for key in (image, *pieces):
            self._store.pop(key, None)
        for other in self._slots:
            same = next((index for index, piece in enumerate(other.pieces) if piece.key in pieces), None)
            if same is not None:
                other.pieces, other.logits = other.pieces[:same], None
            if other.image == image:
                other.image = ""
        self._cache.empty(slot)

    def clear(self, failed: Iterable[int] = ()) -> None:
        """Forgets everything. For a failure, after which what was read may be wrong.

        Args:
            failed: Slots whose rows are emptied too. They may hold NaN, and NaN spreads through masked keys.
        """
        self._store.clear()
        for own in self._slots:
            own.pieces, own.logits, own.image = [], None, ""
        for slot in failed:
            self._cache.empty(slot)

    # --- where something is ---------------------------------------------------------------------------------------------

    def _find(self, slot: int, pieces: Sequence[Piece], kept: int) -> list[_Copied]:
        """Returns the pieces after the first `kept` that other slots or the store have, up to the first that nobody has."""
        found: list[_Copied] = []
        for index, piece in enumerate(pieces[kept:], kept):
            other = self._other_slot(slot, index, piece)
            if other is not None:
                found.append(_Copied(self._cache.token_views(other, piece.start, piece.end)))
            elif piece.key in self._store:
                found.append(self._store[piece.key])
            else:
                break
        for piece in reversed(pieces[: kept + len(found)]):  # the first pieces are used last, because the others need them
            self._store.get(piece.key)
        return found

    def _logits_after(self, pieces: Sequence[Piece]) -> Any:
        last = len(pieces) - 1
        for own in self._slots:
            if own.logits is not None and len(own.pieces) == len(pieces) and own.has(last, pieces[last]):
                return own.logits
        stored = self._store.get(pieces[last].key)
        return None if stored is None else stored.logits

    def _other_slot(self, slot: int, index: int, piece: Piece) -> int | None:
        return next((other for other, own in enumerate(self._slots) if other != slot and own.has(index, piece)), None)

    def _is_elsewhere(self, slot: int, index: int) -> bool:
        piece = self._slots[slot].pieces[index]
        return piece.key in self._store or self._other_slot(slot, index, piece) is not None

    def _image_elsewhere(self, slot: int, image: str) -> _Copied | None:
        for other, own in enumerate(self._slots):
            if other != slot and own.image == image:
                return _Copied(self._cache.image_views(other), tile_mask=self._tile_masks[other])
        return self._store.get(image)

    # --- the store ------------------------------------------------------------------------------------------------------

    def _save_pieces(self, slot: int, kept: int) -> None:
        """Stores the pieces of the row after the first `kept`, which are about to be overwritten."""
        own = self._slots[slot]
        for index in reversed(range(kept, len(own.pieces))):
            piece = own.pieces[index]
            if not self._is_elsewhere(slot, index):
                logits = own.logits if index == len(own.pieces) - 1 else None
                self._save(piece.key, _Copied(self._cache.token_views(slot, piece.start, piece.end), logits))

    def _save_image(self, slot: int) -> None:
        """Stores the image of the row, which is about to be overwritten."""
        image = self._slots[slot].image
        if image and self._image_elsewhere(slot, image) is None:
            self._save(image, _Copied(self._cache.image_views(slot), tile_mask=self._tile_masks[slot].clone()))

    def _save(self, key: bytes | str, copied: _Copied) -> None:
        if copied.nbytes > self._limit:
            return
        while self._store.currsize + copied.nbytes > self._limit:
            self._store.popitem()
        try:
            layers = torch.stack([*copied.layers]).unbind()  # one block of memory
        except (MemoryError, RuntimeError):  # of which torch.OutOfMemoryError is one; the request needs no copy
            self._store.clear()
            return
        self._store[key] = _Copied(layers, copied.logits, copied.tile_mask)


def _copy(sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
