"""Meta's tokenizer.model (tiktoken: one base64 token and its rank a line) as the tokenizer files of the Hugging Face layout.

Knows Llama 3's pre-tokenization, its special tokens and its chat format. Needs the `tokenizers` package and nothing heavier.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from mllama_demo.chat.tokenizer import byte_of_character
from mllama_demo.checkpoint.meta.configs import CONTEXT_LENGTH
from mllama_demo.errors import CheckpointError

# From Meta's tokenizer.py (models/llama3): how text is split into words before byte pairs are merged.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_NAMED = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
    "<|python_tag|>",
)
_RESERVED = 256  # special tokens before `<|image|>`; the Hugging Face layout puts `<|image|>` after the vocabulary
SPECIAL_TOKENS = (
    *_NAMED,
    *(f"<|reserved_special_token_{number}|>" for number in range(2, _RESERVED - len(_NAMED) + 2)),
    "<|image|>",
)

# Equals the template of the published checkpoint for conversations: a turn is a header, two line breaks, its parts and an end.
# Without an image a system turn with the dates comes first. A system text with an image is refused, and so are tools.
CHAT_TEMPLATE = """\
{%- if tools -%}{{ raise_exception("This chat template has no tools.") }}{%- endif -%}
{%- set seen = namespace(image=false) -%}
{%- for message in messages if message['content'] is not string -%}
  {%- for part in message['content'] if part['type'] == 'image' -%}{%- set seen.image = true -%}{%- endfor -%}
{%- endfor -%}
{%- set system = namespace(text='') -%}
{%- if messages and messages[0]['role'] == 'system' -%}
  {%- if messages[0]['content'] is string -%}
    {%- set system.text = messages[0]['content'] | trim -%}
  {%- else -%}
    {%- set system.text = messages[0]['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join | trim -%}
  {%- endif -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set turns = messages -%}
{%- endif -%}
{%- if seen.image and system.text -%}
  {{ raise_exception("A system message and an image cannot be in one conversation.") }}
{%- endif -%}
{%- macro header(role) -%}{{ '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' }}{%- endmacro -%}
{{- bos_token -}}
{%- if not seen.image -%}
  {%- if date_string is not defined -%}
    {%- if strftime_now is defined -%}
      {%- set date_string = strftime_now('%d %b %Y') -%}
    {%- else -%}
      {%- set date_string = '26 Jul 2024' -%}
    {%- endif -%}
  {%- endif -%}
  {{- header('system') ~ 'Cutting Knowledge Date: December 2023\\nToday Date: ' ~ date_string ~ '\\n\\n' ~ system.text -}}
  {{- '<|eot_id|>' -}}
{%- endif -%}
{%- for message in turns -%}
  {{- header(message['role']) -}}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'image' -%}{{- '<|image|>' -}}{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- header('assistant') -}}{%- endif -%}
"""


def read_ranks(file: Path) -> list[bytes]:
    """The plain tokens in the order of their ids. Raises CheckpointError for a file that is cut off or of another kind."""
    tokens: list[bytes] = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            raise CheckpointError(f"{file}, line {number}, is no token and its rank; download tokenizer.model again.") from None
        if rank != str(len(tokens)).encode():
            raise CheckpointError(f"{file}, line {number}, should have rank {len(tokens)}; download tokenizer.model again.")
        tokens.append(token)
    if len(set(tokens)) != len(tokens) or set(tokens[:256]) != {bytes([value]) for value in range(256)}:
        raise CheckpointError(f"{file} does not start with the 256 bytes or repeats a token; download tokenizer.model again.")
    return tokens


def check_vocabulary(file: Path, tokens: list[bytes], vocabulary: int) -> None:
    """Raises CheckpointError unless plain and special tokens together are what params.json says."""
    if len(tokens) + _RESERVED != vocabulary:
        raise CheckpointError(
            f"{file} has {len(tokens):,} tokens, which with {_RESERVED} special ones is not the vocab_size of {vocabulary:,} in "
            "params.json; download both again from one place."
        )


def merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The merges of byte-level BPE, by priority.

    tiktoken merges any two neighbours that form a token, the lowest rank first. So every division of every token into two tokens
    is a merge, in the order of the tokens.
    """
    rank = {token: number for number, token in enumerate(tokens)}
    found: list[tuple[bytes, bytes]] = []
    for token in tokens:
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        found += sorted((cut for cut in cuts if cut[0] in rank and cut[1] in rank), key=lambda cut: (rank[cut[0]], rank[cut[1]]))
    return found


def tokenizer_json(tokens: list[bytes]) -> str:
    """The content of tokenizer.json."""
    characters = {byte: character for character, byte in byte_of_character().items()}

    def as_characters(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    vocabulary = {as_characters(token): number for number, token in enumerate(tokens)}
    pairs = [(as_characters(left), as_characters(right)) for left, right in merges(tokens)]
    # ignore_merges: tiktoken takes a word that is a token without merging.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    begin = SPECIAL_TOKENS[0]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{begin} $A", pair=f"{begin} $A {begin} $B:1", special_tokens=[(begin, len(tokens))]
            ),
        ]
    )
    return tokenizer.to_str(pretty=True)


def tokenizer_config(instruct: bool) -> dict[str, Any]:
    """tokenizer_config.json. transformers 4.x needs this name of the class, and the template in this file."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_tokens_map(instruct),
        "clean_up_tokenization_spaces": False,  # decoding returns the text unchanged
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONTEXT_LENGTH,
        **(chat_template() if instruct else {}),
    }


def special_tokens_map(instruct: bool) -> dict[str, str]:
    """special_tokens_map.json."""
    end = "<|eot_id|>" if instruct else "<|end_of_text|>"
    return {"bos_token": "<|begin_of_text|>", "eos_token": end, "pad_token": "<|finetune_right_pad_id|>"}


def chat_template() -> dict[str, str]:
    """chat_template.json."""
    return {"chat_template": CHAT_TEMPLATE}
