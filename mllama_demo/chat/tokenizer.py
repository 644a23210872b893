"""The checkpoint's tokenizer: encodes text literally, without special tokens, and decodes a stream of token ids.

Uses the `tokenizers` package only, so that building a prompt needs neither transformers nor torch.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer

from mllama_demo.errors import CheckpointError


@lru_cache(maxsize=1)
def byte_of_character() -> dict[str, int]:
    """The byte for each character of a byte-level BPE vocabulary, which writes every byte as a printable character (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    others = [byte for byte in range(256) if byte not in plain]
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


class Tokenizer:
    """Llama 3's byte-level BPE. Special tokens are available by name only; in a text, they are ordinary characters."""

    def __init__(self, path: Path) -> None:
        """Loads path/tokenizer.json. Raises CheckpointError when it cannot be read."""
        try:
            self._raw = RawTokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"The tokenizer {path / 'tokenizer.json'} cannot be read: {error}.") from error
        self._raw.encode_special_tokens = True
        self._special = {token.content: id for id, token in self._raw.get_added_tokens_decoder().items() if token.special}
        self._added = {id: token.content for id, token in self._raw.get_added_tokens_decoder().items() if not token.special}
        self._special_names = {id: name for name, id in self._special.items()}

    def encode(self, text: str) -> list[int]:
        """Token ids of the text. Every character is taken literally: "<|eot_id|>" becomes several ordinary tokens."""
        return self._raw.encode(text, add_special_tokens=False).ids

    def special_id(self, name: str) -> int:
        """Id of a special token such as "<|begin_of_text|>"; raises CheckpointError when the vocabulary has none."""
        try:
            return self._special[name]
        except KeyError:
            raise CheckpointError(f"The tokenizer has no special token {name}; is this a Llama 3.2 Vision checkpoint?") from None

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of a token, perhaps a part of a character; empty for special and unknown tokens."""
        if token_id in self._special_names:
            return b""
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self._raw.id_to_token(token_id)
        if piece is None:
            return b""
        table = byte_of_character()
        return bytes(table[character] for character in piece)

    def token_name(self, token_id: int) -> str:
        """The token as the vocabulary writes it, such as "<|eot_id|>"; empty for an unknown id."""
        return self._special_names.get(token_id) or self._raw.id_to_token(token_id) or ""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids, without special tokens. An incomplete character becomes U+FFFD."""
        return b"".join(self.token_bytes(id) for id in token_ids).decode("utf-8", errors="replace")


class IncrementalText:
    """Decodes the tokens of one answer into whole characters, and withholds text that may become a stop string.

    Attributes:
        stopped: the first complete stop string. It and all text after it are not emitted. When one stop string contains
            another, the tokens decide which is complete first.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped: str | None = None

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty after a stop string."""
        return self._advance(self._decoder.decode(self._tokenizer.token_bytes(token_id)))

    def finish(self) -> str:
        """The withheld text of an answer that ended without a stop string. An incomplete character becomes U+FFFD."""
        text = self._advance(self._decoder.decode(b"", final=True))
        if self.stopped is None:
            text, self._held = text + self._held, ""
        return text

    def _advance(self, new: str) -> str:
        if self.stopped is not None:
            return ""
        self._held += new
        found = [(at, s) for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            at, self.stopped = min(found, key=lambda hit: (hit[0], -len(hit[1])))
            text, self._held = self._held[:at], ""
            return text
        keep = max((_overlap(self._held, s) for s in self._stop), default=0)
        text = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of text that is a proper prefix of stop."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
