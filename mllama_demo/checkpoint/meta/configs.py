"""The JSON files of the published Hugging Face layout, made from the sizes of Meta's checkpoint.

transformers 4.x and 5.x, NxDI and vLLM read them; rope_theta and rope_scaling are where transformers 4.x expects them.
"""

from __future__ import annotations

from typing import Any

from mllama_demo.checkpoint.meta.layout import MetaModel

CONTEXT_LENGTH = 131072
# The pixel statistics of CLIP, with which the vision encoder was trained (MllamaImageProcessor of the published checkpoints).
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# Offsets of special tokens from the end of the plain vocabulary (128000 in the published one).
_BEGIN_OF_TEXT, _END_OF_TEXT, _PAD, _END_OF_MESSAGE, _END_OF_TURN = 0, 1, 4, 8, 9


def config(model: MetaModel, dtype: str, instruct: bool) -> dict[str, Any]:
    """config.json. dtype: torch's name of the type."""
    ids = token_ids(model, instruct)
    scaling: dict[str, Any] = {"rope_type": "default"}
    if model.rope_scaling_factor is not None:  # the constants of Meta's apply_scaling
        scaling = {
            "rope_type": "llama3",
            "factor": model.rope_scaling_factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    text = {
        "model_type": "mllama_text_model",
        "vocab_size": model.vocab,
        "hidden_size": model.dim,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers + model.cross_layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "cross_attention_layers": list(model.cross_positions),
        "hidden_act": "silu",
        "dropout": 0,
        "rms_norm_eps": model.norm_eps,
        "max_position_embeddings": CONTEXT_LENGTH,
        "rope_theta": model.rope_theta,
        "rope_scaling": scaling,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "use_cache": True,
        "torch_dtype": dtype,
        **ids,
    }
    vision = {
        "model_type": "mllama_vision_model",
        "hidden_size": model.vision_dim,
        "intermediate_size": model.vision_ffn,
        "num_hidden_layers": model.vision_layers,
        "num_global_layers": model.global_layers,
        "attention_heads": model.vision.heads,
        "intermediate_layers_indices": list(model.vision.intermediate_layers),
        "vision_output_dim": (len(model.vision.intermediate_layers) + 1) * model.vision_dim,
        "num_channels": model.vision.channels,
        "patch_size": model.patch,
        "image_size": model.tile_size,
        "max_num_tiles": model.tiles,
        "supported_aspect_ratios": [list(ratio) for ratio in model.aspect_ratios],
        "hidden_act": "gelu",
        "norm_eps": 1e-5,
        "initializer_range": 0.02,
        "torch_dtype": dtype,
    }
    return {
        "architectures": ["MllamaForConditionalGeneration"],
        "model_type": "mllama",
        "image_token_index": model.vocab,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "text_config": text,
        "vision_config": vision,
    }


def token_ids(model: MetaModel, instruct: bool) -> dict[str, Any]:
    """The ids of begin, end and padding. A base model ends documents; an instruct model also ends messages and turns."""
    base = model.vocab - 256
    ends = [base + _END_OF_TEXT, base + _END_OF_MESSAGE, base + _END_OF_TURN]
    return {"bos_token_id": base + _BEGIN_OF_TEXT, "eos_token_id": ends if instruct else ends[0], "pad_token_id": base + _PAD}


def generation_config(model: MetaModel, instruct: bool) -> dict[str, Any]:
    """generation_config.json: Meta's sampling defaults."""
    return {"do_sample": True, "temperature": 0.6, "top_p": 0.9, **token_ids(model, instruct)}


def preprocessor_config(model: MetaModel) -> dict[str, Any]:
    """preprocessor_config.json: how an image is divided into tiles."""
    return {
        "image_processor_type": "MllamaImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_pad": True,
        "image_mean": _MEAN,
        "image_std": _STD,
        "max_image_tiles": model.tiles,
        "resample": 2,  # bilinear
        "rescale_factor": 1 / 255,
        "size": {"height": model.tile_size, "width": model.tile_size},
    }
