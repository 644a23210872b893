"""Recognises folders and files that hold a model in another layout, and says in one sentence what to do with them."""

from __future__ import annotations

import json
from pathlib import Path

from mllama_demo.config.hub_cache import repository_of


def describe_other_layout(path: Path) -> str | None:
    """The sentence for a folder without config.json, or for a file; None when nothing in it is recognised."""
    if not path.is_dir():
        return _gguf(path, [path]) if path.suffix == ".gguf" else None
    if (path / "adapter_config.json").exists():
        return _adapter(path)
    if repository := repository_of(path):
        return (
            f"{path} is the folder of {repository} in the cache of the Hugging Face hub, without a whole snapshot; "
            f"`python -m mllama_demo download {repository}` gets it."
        )
    if cached := sorted(name for entry in path.iterdir() if (name := repository_of(entry))):
        more = f" and {len(cached) - 1} more" if len(cached) > 1 else ""
        return f"{path} is a cache of the Hugging Face hub, with {cached[0]}{more}; set model_path to the name of one of them."
    if files := sorted(path.glob("*.gguf")):
        return _gguf(path, files)
    if (path / "params.json").exists() and list(path.glob("consolidated*.pth")):
        return (
            f"{path} is a checkpoint in Meta's layout; `python -m mllama_demo convert --input-dir {path} --output-dir DIR` makes "
            "the Hugging Face layout from it."
        )
    if below := sorted(entry.parent for entry in path.glob("*/config.json")):
        return f"{path} has no config.json, but {below[0]} has one; set model_path to that folder."
    return None


def _adapter(path: Path) -> str:
    try:
        base = json.loads((path / "adapter_config.json").read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    model = f"its base model, {base}" if isinstance(base, str) and base else "its base model"
    return (
        f"{path} is an adapter (PEFT), which changes another model and holds no model; merge it into {model}, with PEFT's "
        "merge_and_unload, and set model_path to the result."
    )


def _gguf(path: Path, files: list[Path]) -> str:
    what = f"{path} is a GGUF file" if files == [path] else f"{path} holds a GGUF file ({files[0].name})"
    return (
        f"{what}, which llama-server, Ollama and LM Studio read and this demo does not; start one of them with it, and this demo "
        "with --config configs/llama-server.yaml, configs/ollama.yaml or configs/lm-studio.yaml."
    )
