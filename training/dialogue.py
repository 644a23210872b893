"""Conversations as token ids, in the demo's own chat format, and endless batches of them with their pictures."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mllama_demo.images import tile_layout
from mllama_demo.tokenizer import Tokenizer
from training.batches import Pictures, PictureStream
from training.drawings import DrawingBank
from training.kinds import CHARACTERS, COLOURS, KINDS, NUMBERS, REGIONS, SCENERY
from training.labels import IGNORE
from training.model import MAX_TILES, TILE
from training.render import disturb, render, seen_colours
from training.scenes import sample_scene
from training.talk.conversation import conversation
from training.talk.exchange import Exchange
from training.talk.without_picture import small_talk

MAX_LENGTH, TURNS = 168, 6  # tokens of a training conversation; a turn that would pass it is left out
LONG_LENGTH, LONG_TURNS, LONG_SHARE = 504, 18, 3  # of a long one, of which a batch holds a third as many
CONTENT = 3.0
WITHOUT_PICTURE, LONG = 8, 12  # one batch in this many has no pictures, is of long conversations
# Half of the conversations are spread over up to this many positions, as if more had been said between their turns: short ones
# then teach to look back far. (Randomised positions: Ruoss et al., 2023.)
FURTHEST = 1800


@dataclass
class Talk:
    """ids, labels, positions: [batch, length], labels IGNORE except on answers. image_at: [batch], None without pictures."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    image_at: Tensor | None
    pictures: Pictures | None

    def to(self, device: torch.device) -> Talk:
        moved = [value if value is None else value.to(device) for value in (getattr(self, f.name) for f in fields(self))]
        return Talk(*moved)


class ChatFormat:
    """Exchanges to ids, as mllama_demo/prompt.py writes them, faster for the many short texts that come again and again."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        encode = lru_cache(maxsize=50_000)(tokenizer.encode)
        self._encode = encode
        special = tokenizer.special_id
        self.begin, self.image, self.end = special("<|begin_of_text|>"), special("<|image|>"), special("<|eot_id|>")
        self.pad = special("<|finetune_right_pad_id|>")
        start, stop = special("<|start_header_id|>"), special("<|end_header_id|>")
        self._user, self._assistant = ([start, *tokenizer.encode(role), stop] for role in ("user", "assistant"))
        self._gap = tokenizer.encode("\n\n")

    def encode(self, exchanges: Sequence[Exchange], image_turn: int | None, limit: int = 2**31) -> tuple[list[int], list[int]]:
        """ids and labels of as many exchanges as fit into `limit` tokens; the first ones always."""
        ids, labels = [self.begin], [IGNORE]
        for index, exchange in enumerate(exchanges):
            image = [self.image] if index == image_turn else []
            asked = [*self._user, *self._gap, *image, *self._encode(exchange.question), self.end, *self._assistant, *self._gap]
            said = [*self._encode(exchange.answer), self.end]
            if index > (image_turn or 0) and len(ids) + len(asked) + len(said) > limit:
                break
            ids += asked + said
            labels += [IGNORE] * len(asked) + said
        return ids, labels


_FUNCTION_WORDS = "a an the on in at of front".split()


def content_weights(tokenizer: Tokenizer, size: int) -> Tensor:
    """[vocabulary]: how much each token of an answer counts. Names, numbers, colours, places and letters, which the picture
    decides, count CONTENT times as much as the wording, much of which is chance."""
    phrases = [name for kind in KINDS for name in (kind.name, kind.many)] + [*COLOURS, *SCENERY, *REGIONS.values(), *NUMBERS]
    words = {word for phrase in phrases for word in phrase.split()} - set(_FUNCTION_WORDS) | {"above", "below"}
    first = {word.capitalize() for word in (*NUMBERS, "yes", "no", "nothing")}  # these begin an answer
    weights = torch.ones(size)
    for text in (*(f" {word}" for word in words), *first, *CHARACTERS):
        weights[tokenizer.encode(text)] = CONTENT
    return weights


class TalkStream(PictureStream):
    """Batches of conversations about pictures; every eighth batch is of conversations without one."""

    def __init__(self, batch: int, seed: str, tokenizer: Path) -> None:
        super().__init__(batch, seed)
        self.tokenizer = tokenizer
        self._format: ChatFormat | None = None
        self._drawn = 0

    def draw(self, rng: random.Random, bank: DrawingBank) -> Talk:
        self._format = self._format or ChatFormat(Tokenizer(self.tokenizer))
        self._drawn += 1
        long = self._drawn % LONG == 0
        many = max(1, self.batch // LONG_SHARE) if long else self.batch
        length, turns = (LONG_LENGTH, LONG_TURNS) if long else (MAX_LENGTH, TURNS)
        if self._drawn % WITHOUT_PICTURE == 0:
            talks = [self._format.encode(conversation(rng, None, turns), None, length) for _ in range(many)]
            return self._pack_talk(rng, talks)
        rows: list[Any] = []
        talks = []
        for _ in range(many):
            scene = sample_scene(rng)
            layout = tile_layout(scene.width, scene.height, TILE, MAX_TILES)
            image = disturb(render(scene, bank, (layout.width, layout.height)), rng)
            rows.append((scene, image, layout))
            exchanges = conversation(rng, scene, turns, seen_colours=seen_colours(image) if scene.foreign else ())
            late = rng.random() < 0.08  # the picture comes after a first exchange without one
            if late:
                exchanges = [small_talk(rng), *exchanges]
            talks.append(self._format.encode(exchanges, int(late), length))
        return self._pack_talk(rng, talks, self.pack(rows, bank))

    def _pack_talk(self, rng: random.Random, talks: list[tuple[list[int], list[int]]], pictures: Pictures | None = None) -> Talk:
        assert self._format is not None
        length = max(len(ids) for ids, _ in talks)
        ids = torch.tensor([row + [self._format.pad] * (length - len(row)) for row, _ in talks])
        labels = torch.tensor([row + [IGNORE] * (length - len(row)) for _, row in talks])
        positions = torch.tensor([self._positions(rng, row, length) for _, row in talks])
        image_at = (ids == self._format.image).long().argmax(1) if pictures else None
        return Talk(ids, labels, positions, image_at, pictures)

    def _positions(self, rng: random.Random, labels: list[int], length: int) -> list[int]:
        """Position ids of one conversation: one after the other, or with gaps where a turn ends."""
        assert self._format is not None
        ends = [index + 1 for index, label in enumerate(labels) if label == self._format.end]
        gaps = [0] * length
        if rng.random() < 0.5:
            spare = rng.randint(0, FURTHEST - length)
            for end in ends[:-1]:
                gaps[end] = int(spare * rng.random() ** 2 / 2)
                spare -= gaps[end]
        return list(itertools.accumulate(1 + gap for gap in [gaps[0] - 1, *gaps[1:]]))
