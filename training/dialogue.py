"""Endless batches of conversations with their pictures, as token ids in the demo's own chat format.

The module adds to each token its label, its position and what it refers to in the picture. It does not choose what is said.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.images.tiles import tile_layout
from training.batches import TINTED, Pictures, PictureStream
from training.drawings import DrawingBank
from training.kinds import CHARACTERS, COLOURS, KINDS, NUMBERS, REGIONS, SCENERY
from training.labels import IGNORE
from training.listening import LOOKUPS, Mention, look_up, mentions, word_list
from training.model import MAX_TILES, TILE
from training.render import disturb, render, seen_colours
from training.sampling import sample_scene
from training.talk.conversation import conversation
from training.talk.exchange import Exchange
from training.talk.without_picture import small_talk

MAX_LENGTH, TURNS = 168, 6  # most tokens and turns of a conversation; a turn that does not fit is left out
# Most tokens and turns of a long conversation. A batch of long conversations has 1 / LONG_SHARE as many pictures.
LONG_LENGTH, LONG_TURNS, LONG_SHARE = 504, 18, 3
TALKS = 2  # conversations about each picture, which the vision model encodes once for all of them
WORDS = 60  # entries of the word list (listening.word_list) about each picture; the list is cut at MAX_LENGTH tokens
CONTENT = 3.0  # weight of tokens that the picture decides (content_weights)
WITHOUT_PICTURE, LONG = 7, 12  # one batch in WITHOUT_PICTURE has no pictures, one in LONG has long conversations
# Half of the conversations get position ids with gaps between the turns, up to this position. Short conversations so teach
# attention over long distances. (Randomised positions: Ruoss et al., 2023.)
FURTHEST = 1800


@dataclass
class Talk:
    """A batch of conversations, several about each picture.

    The last four attributes are None in a batch without pictures.

    Attributes:
        ids: Token ids, [rows, length].
        labels: Token ids to learn, [rows, length]; IGNORE except on answers.
        positions: Position ids, [rows, length].
        image_at: Index of the image token, [rows].
        picture: Index of the row's picture in `pictures`, [rows].
        lookups: What mentions refer to, int16 [rows, length, LOOKUPS]; IGNORE where nothing is mentioned.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    image_at: Tensor | None = None
    picture: Tensor | None = None
    lookups: Tensor | None = None
    pictures: Pictures | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Talk:
        moved: list[Any] = [
            value if value is None else value.to(device) for value in (getattr(self, f.name) for f in fields(self))
        ]
        return Talk(*moved)


@dataclass
class Row:
    """One conversation as tokens. mentions: pairs of the index of a mention's last token and the mention."""

    ids: list[int]
    labels: list[int]
    mentions: list[tuple[int, Mention]] = field(default_factory=list)

    def add(self, ids: Sequence[int], learned: bool = False, mentioned: Sequence[tuple[int, Mention]] = ()) -> None:
        self.mentions += [(len(self.ids) + index, mention) for index, mention in mentioned]
        self.ids += ids
        self.labels += ids if learned else [IGNORE] * len(ids)


class ChatFormat:
    """Encodes exchanges as mllama_demo/chat/prompt.py does.

    An LRU cache of encoded texts makes this faster, because training repeats many short texts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._encode = lru_cache(maxsize=50_000)(self._encode_text)
        special = tokenizer.special_id
        self.begin, self.image, self.end = special("<|begin_of_text|>"), special("<|image|>"), special("<|eot_id|>")
        self.pad = special("<|finetune_right_pad_id|>")
        start, stop = special("<|start_header_id|>"), special("<|end_header_id|>")
        self._user, self._assistant = (
            [start, *tokenizer.encode(role), stop, *tokenizer.encode("\n\n")] for role in ("user", "assistant")
        )

    def _encode_text(self, text: str) -> tuple[list[int], list[tuple[int, Mention]]]:
        """The token ids, and each mention with the index of the token that holds its last character."""
        ids = self._tokenizer.encode(text)
        ends = list(itertools.accumulate(len(self._tokenizer.token_bytes(id)) for id in ids))
        return ids, [(bisect.bisect_left(ends, len(text[: hit.end].encode())), hit) for hit in mentions(text)]

    def encode(self, exchanges: Sequence[Exchange], image_turn: int | None, limit: int = 2**31) -> Row:
        """Encodes as many exchanges as fit into `limit` tokens, at least those up to the image.

        Args:
            image_turn: Index of the exchange whose question has the image; None without an image.
        """
        row = Row([self.begin], [IGNORE])
        for index, exchange in enumerate(exchanges):
            asked, asked_of = self._encode(exchange.question)
            said, said_of = self._encode(exchange.answer)
            image = [self.image] if index == image_turn else []
            length = len(self._user) + len(image) + len(asked) + 1 + len(self._assistant) + len(said) + 1
            if index > (image_turn or 0) and len(row.ids) + length > limit:
                break
            row.add([*self._user, *image])
            row.add(asked, mentioned=asked_of)
            row.add([self.end, *self._assistant], mentioned=self._topic(exchange, asked_of))
            row.add(said, learned=True, mentioned=said_of)
            row.add([self.end], learned=True)
        return row

    def _topic(self, exchange: Exchange, asked_of: Sequence[tuple[int, Mention]]) -> list[tuple[int, Mention]]:
        """The mention that the question is about, with the index of the last token before the answer."""
        named = {(mention.kind, mention.colour) for _, mention in asked_of}
        if len(named) == 1 or (exchange.kind == "relation" and len(named) == 2):
            return [(len(self._assistant), asked_of[-1][1])]
        return [(len(self._assistant), Mention(0, exchange.about))] if exchange.about else []

    def encode_list(self, text: str, limit: int) -> Row:
        """Encodes a question that is a list of words about a picture, cut to `limit` tokens. It has no answer to learn."""
        row = Row([self.begin], [IGNORE])
        row.add([*self._user, self.image])
        ids, mentioned = self._encode_text(text)
        room = limit - len(row.ids)
        row.add(ids[:room], mentioned=[(index, mention) for index, mention in mentioned if index < room])
        return row


_FUNCTION_WORDS = "a an the on in at of front".split()


def content_weights(tokenizer: Tokenizer, size: int) -> Tensor:
    """Loss weights of the tokens of an answer, float32 [size].

    The picture decides names, numbers, colours, places and letters: their weight is CONTENT. The wording is partly random: its
    weight is 1.

    Args:
        size: Size of the vocabulary.
    """
    phrases = [name for kind in KINDS for name in (kind.name, kind.many)] + [*COLOURS, *SCENERY, *REGIONS.values(), *NUMBERS]
    words = {word for phrase in phrases for word in phrase.split()} - set(_FUNCTION_WORDS) | {"above", "below"}
    first = {word.capitalize() for word in (*NUMBERS, "yes", "no", "nothing")}  # these begin an answer
    weights = torch.ones(size)
    for text in (*(f" {word}" for word in words), *first, *CHARACTERS):
        weights[tokenizer.encode(text)] = CONTENT
    return weights


class TalkStream(PictureStream):
    """Endless batches of conversations about pictures. Every WITHOUT_PICTURE-th batch has conversations without pictures."""

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
        talks = 1 if long else TALKS
        if self._drawn % WITHOUT_PICTURE == 0:
            said = [self._format.encode(conversation(rng, None, turns), None, length) for _ in range(many * talks)]
            return self._pack_talk(rng, said)
        drawn: list[Any] = []
        rows: list[Row] = []
        for _ in range(many):
            scene = sample_scene(rng)
            layout = tile_layout(scene.width, scene.height, TILE, MAX_TILES)
            image = disturb(render(scene, bank, (layout.width, layout.height), tinted=TINTED), rng)
            drawn.append((scene, image, layout))
            colours = seen_colours(image) if scene.foreign else ()
            for _ in range(talks):
                exchanges = conversation(rng, scene, turns, seen_colours=colours)
                late = rng.random() < 0.08  # the picture comes with the second question
                if late:
                    exchanges = [small_talk(rng), *exchanges]
                rows.append(self._format.encode(exchanges, int(late), length))
            if not long:
                rows.append(self._format.encode_list(word_list(rng, scene, WORDS), length))
        return self._pack_talk(rng, rows, drawn, bank)

    def _pack_talk(self, rng: random.Random, rows: list[Row], drawn: Sequence[Any] = (), bank: DrawingBank | None = None) -> Talk:
        assert self._format is not None
        length = max(len(row.ids) for row in rows)
        ids = torch.tensor([row.ids + [self._format.pad] * (length - len(row.ids)) for row in rows])
        labels = torch.tensor([row.labels + [IGNORE] * (length - len(row.ids)) for row in rows])
        positions = torch.tensor([self._positions(rng, row.labels, length) for row in rows])
        if not drawn:
            return Talk(ids, labels, positions)
        picture = torch.arange(len(rows)) // (len(rows) // len(drawn))
        lookups = np.full((len(rows), length, len(LOOKUPS)), IGNORE, np.int16)
        for index, row in enumerate(rows):
            scene = drawn[int(picture[index])][0]
            seen_from = row.ids.index(self._format.image)
            for at, mention in row.mentions:
                if at > seen_from:
                    lookups[index, at] = look_up(scene, mention)
        image_at = (ids == self._format.image).long().argmax(1)
        return Talk(ids, labels, positions, image_at, picture, torch.from_numpy(lookups), self.pack(list(drawn), bank))

    def _positions(self, rng: random.Random, labels: list[int], length: int) -> list[int]:
        """Position ids of one conversation: consecutive, or with gaps after the ends of turns."""
        assert self._format is not None
        ends = [index + 1 for index, label in enumerate(labels) if label == self._format.end]
        gaps = [0] * length
        if rng.random() < 0.5:
            spare = rng.randint(0, FURTHEST - length)
            for end in ends[:-1]:
                gaps[end] = int(spare * rng.random() ** 2 / 2)
                spare -= gaps[end]
        return list(itertools.accumulate(1 + gap for gap in [gaps[0] - 1, *gaps[1:]]))
