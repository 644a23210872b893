"""Trains the tokenizer: byte-level BPE with the special tokens of Llama 3, and a vocabulary for the training conversations.

The corpus leaves out digits and what is in quotes, so that the model spells texts of pictures letter by letter.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.sampling import sample_scene
from training.talk.conversation import conversation

IMAGE_TOKEN = "<|image|>"
# The special tokens of Llama 3.2 that conversations use. Reserved tokens make them sixteen.
SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(2, 7)),
)
# The pre-tokenization pattern of Llama 3 (its published tokenizer.json).
# Before it, for texts of pictures: in a quoted word, or two, each character is a piece. Reading goes letter by letter.
_SPELT_OUT = r"\"(?=[\p{L}\p{N}]+(?: [\p{L}\p{N}]+)?\")| (?=[\p{L}\p{N}]+\")|[\p{L}\p{N}](?=[\p{L}\p{N}]*(?: [\p{L}\p{N}]+)?\")|"
_PIECES = (
    _SPELT_OUT
    + r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPELT = re.compile(r'"[A-Za-z0-9 ]+"|\d')


def _corpus(seed: int, conversations: int) -> Iterator[str]:
    rng = random.Random(seed)
    for index in range(conversations):
        scene = sample_scene(rng) if index % 3 else None
        for exchange in conversation(rng, scene, 4, seen_colours=("green", "brown")):
            for text in (exchange.question, exchange.answer):
                yield _SPELT.sub(lambda hit: '" ' if hit[0][0] == '"' else "", text)
    yield from ["system user assistant"] * 100


def pieces() -> pre_tokenizers.PreTokenizer:
    """Cuts a text into the pieces within which tokens may be merged."""
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_PIECES), "isolated"), bytes_of])


def train_tokenizer(vocabulary: int, seed: int = 1, conversations: int = 12_000) -> Tokenizer:
    """Trains a tokenizer with `vocabulary` tokens and the image token on random conversations."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pieces()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed, conversations), trainer)
    missing = vocabulary - len(SPECIAL) - tokenizer.get_vocab_size()
    spare = [f"<|reserved_special_token_{7 + i}|>" for i in range(missing)]
    for name in (*SPECIAL, *spare, IMAGE_TOKEN):
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])
    assert tokenizer.token_to_id(IMAGE_TOKEN) == vocabulary
    return tokenizer
