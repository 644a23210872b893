"""What becomes of the fields of a request that this server does not read: harmless ones are ignored, others are refused.

A field is refused where an answer without it would not be what was asked for: it changes the answer, it carries something for the
model to read or to see, or it is another server's name for a field of this one. Whole names count, not words in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

# Fields of other servers that would change the answer, with the values that have no effect (null has none either).
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "top_a": (0,),
    "mirostat": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
    "do_sample": (True,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "repetition_detection": (),
    "watermarking": (False,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "documents": ([],),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "logprob_token_ids": (),
    "return_prompt_text": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "structural_tag": (),
    "grammar": (),
    "json_schema": (),
    "vllm_xargs": ({},),
}

# Fields of OpenAI and vLLM that say who asks, what is stored and what it costs, or that speak of tools and of reasoning, which
# this model does not have. They are ignored, and so is every name that stands in no list here.
HARMLESS = frozenset(
    {
        *("user", "safety_identifier", "metadata", "store", "service_tier", "priority", "request_id", "moderation"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "cache_salt", "cache_prompt", "prediction"),
        *("parallel_tool_calls", "reasoning_effort", "include_reasoning", "verbosity"),
        *("guided_decoding_backend", "guided_whitespace_pattern", "spaces_between_special_tokens"),
        *("media_io_kwargs", "return_mm_kwargs", "return_token_offsets", "routed_experts_prompt_start"),
        *("session_id", "truncation_side", "thinking_token_budget", "kv_transfer_params", "ec_transfer_params"),
    }
)

# Other servers' names for fields of this one.
_RENAMED = {
    **dict.fromkeys(("max_new_tokens", "max_output_tokens", "max_length", "n_predict", "num_predict"), "max_tokens"),
    "stop_sequences": "stop",
    "random_seed": "seed",
    **dict.fromkeys(("num_return_sequences", "candidate_count"), "n"),
}

_IMAGE = 'an image is a part of content: {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}'
_TEXT = "text belongs into the content of a message"
_SYSTEM = 'an instruction is a message of the role "system"'
_VALUES = "its values belong beside messages"
_NO_FILES = "this server reads text and images only"
# Names of fields that carry content, and the place for it.
_PLACES = {
    **dict.fromkeys(("image", "images", "image_url", "image_urls", "image_data", "image_base64", "input_image"), _IMAGE),
    **dict.fromkeys(("img", "imgs", "picture", "pictures", "photo", "photos", "media", "multi_modal_data"), _IMAGE),
    **dict.fromkeys(("attachment", "attachments", "experimental_attachments"), _IMAGE),
    **dict.fromkeys(("audio", "audios", "audio_url", "input_audio", "video", "videos", "video_url", "input_video"), _NO_FILES),
    **dict.fromkeys(("file", "files", "input_file", "document", "documents", "pdf"), _NO_FILES),
    **dict.fromkeys(("prompt", "prompts", "input", "inputs", "question", "query", "text", "texts", "input_text"), _TEXT),
    **dict.fromkeys(("parts", "contents", "history", "chat_history"), _TEXT),
    **dict.fromkeys(("system", "system_prompt", "system_message", "system_instruction"), _SYSTEM),
    **dict.fromkeys(("instruction", "instructions"), _SYSTEM),
    **dict.fromkeys(("options", "body", "extra_body", "parameters", "generation_config", "sampling_params"), _VALUES),
}
_DATA_URL = re.compile(r"\s*data:[\w.+-]+/[\w.+-]+[;,]", re.ASCII)


def unread_content(fields: Mapping[str, Any], known: Container[str]) -> tuple[str, str] | None:
    """The first field that carries content and is not read: its name and where the content belongs; None when there is none.

    Args:
        fields: an object of the request.
        known: the names of the fields that are read, or that are checked elsewhere.
    """
    for name, value in fields.items():
        if name in known or not isinstance(value, (str, list, dict)) or not value:
            continue
        place = _PLACES.get(_snake_case(name)) or (_IMAGE if _has_data_url(value) else None)
        if place is not None:
            return name, f"this server does not read this field; {place}"
    return None


def refused_field(fields: Mapping[str, Any], read: Container[str]) -> tuple[str, str] | None:
    """The first of the fields beside messages that must not be ignored: its name and why; None when there is none.

    Args:
        fields: those that are not read.
        read: the names of those that are.
    """
    for name, value in fields.items():
        if value is None:
            continue
        if name in NEUTRAL:
            if not any(is_same(value, neutral) for neutral in NEUTRAL[name]):
                return name, effect(NEUTRAL[name])
            continue
        ours = _RENAMED.get(snake := _snake_case(name)) or (snake if snake in read else None)
        if ours is not None:
            return name, f"this server does not read this field; its name for it is {ours}"
    return unread_content(fields, NEUTRAL.keys() | HARMLESS)


def ignored_fields(fields: Mapping[str, Any]) -> list[str]:
    """The names of the fields beside messages that were sent and had no effect. Call it with fields of which none is refused."""
    return [name for name, value in fields.items() if value is not None and name not in NEUTRAL]


def effect(allowed: Iterable[Any]) -> str:
    """Why a field is refused of which only some values have no effect."""
    values = " or ".join(json.dumps(value) for value in allowed) or "null"
    return f"not supported, and ignoring it would change the answer; only {values} is allowed"


def is_same(value: Any, neutral: Any) -> bool:
    """Whether the values are equal; True is not equal to 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")


def _has_data_url(value: Any, depth: int = 4) -> bool:
    if isinstance(value, str):
        return _DATA_URL.match(value[:200]) is not None
    if depth == 0 or not isinstance(value, (list, dict)):
        return False
    return any(_has_data_url(inner, depth - 1) for inner in (value.values() if isinstance(value, dict) else value))
