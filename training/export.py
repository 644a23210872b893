"""Writes the model as a checkpoint folder in the published Hugging Face layout, which transformers 4.57, 5.x and NxDI read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import MllamaConfig

from training.model import ASPECT_RATIOS, IMAGE_MEAN, IMAGE_STD, MAX_TILES, TILE, Student

CHAT_TEMPLATE = Path(__file__).parent / "assets" / "chat_template.jinja"
# The export multiplies the logits by this factor. Without the factor, four of ten descriptions at temperature 1 say something
# false, because so small a model is underconfident. With it, six of ten descriptions at temperature 1 are still different. Greedy
# answers do not change. The metadata of the weight file keeps the factor for warm_start.py.
LOGIT_SCALE = 2.5
HEAD = "lm_head.weight"
# Prefixes of parameter names: in transformers 5, and in the published files.
_NAMES = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_model.", "vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
_TEXT_KEYS = (
    "bos_token_id cross_attention_layers dropout eos_token_id hidden_act hidden_size initializer_range intermediate_size "
    "max_position_embeddings model_type num_attention_heads num_hidden_layers num_key_value_heads pad_token_id rms_norm_eps "
    "tie_word_embeddings use_cache vocab_size"
).split()
_VISION_KEYS = (
    "attention_heads hidden_act hidden_size initializer_range intermediate_layers_indices intermediate_size max_num_tiles "
    "model_type norm_eps num_channels num_global_layers num_hidden_layers patch_size vision_output_dim"
).split()


def published_name(name: str) -> str:
    """The name that a parameter of MllamaForConditionalGeneration (transformers 5) has in published checkpoints.

    Raises:
        ValueError: The parameter is unknown.
    """
    for ours, theirs in _NAMES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(f"{name} has no published name")


def export(student: Student, tokenizer: Path, folder: Path) -> None:
    """Writes the checkpoint files, weights in float16. Other files in the folder stay. tokenizer: path of a tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        published_name(name): (LOGIT_SCALE * value if name == HEAD else value).detach().to("cpu", torch.float16).contiguous()
        for name, value in student.model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "logit_scale": str(LOGIT_SCALE)})
    (folder / "model.safetensors").chmod(0o644)  # safetensors creates the file with mode 0600
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    shutil.copyfile(CHAT_TEMPLATE, folder / "chat_template.jinja")
    for name, content in describe(student.model.config).items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def describe(config: MllamaConfig) -> dict[str, Any]:
    """The JSON files of the checkpoint, by file name. RoPE has the keys of transformers 4, which transformers 5 reads too."""
    parts: Any = config  # transformers also declares the two parts as dicts
    text, vision = parts.text_config.to_dict(), parts.vision_config.to_dict()
    ids = {name: text[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {
        "config.json": {
            "architectures": ["MllamaForConditionalGeneration"],
            "model_type": "mllama",
            "image_token_index": config.image_token_index,
            "torch_dtype": "float16",
            "text_config": {
                **{key: text[key] for key in _TEXT_KEYS},
                "rope_theta": text["rope_parameters"]["rope_theta"],
                "rope_scaling": {"rope_type": "default"},
                "torch_dtype": "float16",
            },
            "vision_config": {
                **{key: vision[key] for key in _VISION_KEYS},
                "image_size": TILE,
                "supported_aspect_ratios": ASPECT_RATIOS,
                "torch_dtype": "float16",
            },
        },
        "generation_config.json": {**ids, "do_sample": True, "temperature": 0.6, "top_p": 0.9},
        "preprocessor_config.json": {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(IMAGE_MEAN),
            "image_processor_type": "MllamaImageProcessor",
            "image_std": list(IMAGE_STD),
            "max_image_tiles": MAX_TILES,
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": TILE, "width": TILE},
        },
        "processor_config.json": {"processor_class": "MllamaProcessor"},
        "tokenizer_config.json": {
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "pad_token": "<|finetune_right_pad_id|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": text["max_position_embeddings"],
            "chat_template": CHAT_TEMPLATE.read_text(encoding="utf-8"),
        },
    }
