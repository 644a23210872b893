"""Checks in milliseconds whether a folder is a complete Llama 3.2 Vision checkpoint, and describes it (CheckpointInfo).

Reads JSON and the headers of safetensors files, no weights, and imports nothing heavy, so that a wrong folder is reported before
torch is imported.
"""

from __future__ import annotations

import json
import math
import shlex
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.checkpoint.other_layouts import describe_other_layout
from mllama_demo.checkpoint.tensors import COMPUTED, Shape, expected_tensors, newer_name
from mllama_demo.checkpoint.weights_identity import WeightsIdentity, read_identity
from mllama_demo.config.hub_cache import checkpoint_name, is_repository_id, repository_of_snapshot
from mllama_demo.config.model_shape import published_size
from mllama_demo.errors import CheckpointError

INDEX = "model.safetensors.index.json"
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
_BITS |= {"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F4": 4}
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class CheckpointInfo:
    """The description of a checkpoint.

    Attributes:
        name: the name of the folder, or of the model in the Hugging Face cache.
        parameters: the number of parameters in all tensors.
        bytes: the size of all weight files.
        dtype: torch's name of the type of most parameters.
        tile_size, patch_size: the side of a square tile and of a patch, in pixels.
        image_token_id: the token that stands for an image; in the published checkpoints it equals vocab_size.
        max_position_embeddings: the longest context in tokens.
        eos_token_ids: the tokens that end an answer.
        cross_attention_layers: the indices of the layers that attend to the image.
        identity: the identity of the weights where they are not in this folder; None where they are.
    """

    path: Path
    name: str
    parameters: int
    bytes: int
    dtype: str
    tile_size: int
    max_tiles: int
    patch_size: int
    vocab_size: int
    image_token_id: int
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...]
    num_hidden_layers: int
    cross_attention_layers: tuple[int, ...]
    weight_files: tuple[str, ...]
    identity: WeightsIdentity | None = None


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    shape: Shape

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def check_checkpoint(path: Path, *, weights_needed: bool = True) -> CheckpointInfo:
    """Checks and describes a folder. Raises CheckpointError, which names the file at fault and what to do.

    Args:
        weights_needed: False if the identity of the weights will do.
    """
    try:
        return _check(Path(path), weights_needed)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path} cannot be read ({error.strerror}); check its permissions.") from None


def _check(path: Path, weights_needed: bool) -> CheckpointInfo:
    repository = str(path) if is_repository_id(path) else repository_of_snapshot(path)
    if not path.exists() and repository:
        raise CheckpointError(
            f"{repository} is neither a folder nor in the cache of the Hugging Face hub; `python -m mllama_demo download "
            f"{repository}` gets it."
        )
    if not path.exists():
        size = published_size(path.name)
        repository = f"meta-llama/Llama-3.2-{size}-Vision-Instruct" if size else "ORG/NAME"
        raise CheckpointError(
            f"The checkpoint folder {path} does not exist; set model_path to a downloaded checkpoint, or get one by `python -m "
            f"mllama_demo download {repository} --to {shlex.quote(str(path))}`."
        )
    if not (path / "config.json").exists() and (sentence := describe_other_layout(path)):
        raise CheckpointError(sentence)
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file; set model_path to the folder that holds config.json and the weights.")
    path = path.resolve()
    config = _read_json(path / "config.json", "set model_path to a folder in the Hugging Face layout")
    _check_architecture(path / "config.json", config)
    _refuse_quantized(path, config)
    _check_tokenizer(path / "tokenizer.json")
    tile_size, max_tiles = _image_settings(path)
    text, vision = config["text_config"], config["vision_config"]
    where = path / "config.json"
    identity = None if weights_needed else read_identity(path)
    if identity is None:
        tensors, files = _weights(path)
        _check_tensors(path, expected_tensors(where, config), tensors)
        parameters, dtype = _numbers(tensors)
        size = sum((path / name).stat().st_size for name in files)
    else:
        files, parameters, dtype = [*identity.files], identity.parameters, identity.dtype
        size = sum(record["bytes"] for record in identity.files.values())
    if tile_size != _whole_number(where, vision, "image_size"):
        raise CheckpointError(
            f"{path} cuts images into tiles of {tile_size} pixels, but {where} expects {vision['image_size']}; "
            "download both files again from one place."
        )
    return CheckpointInfo(
        path=path,
        name=checkpoint_name(path),
        parameters=parameters,
        bytes=size,
        dtype=dtype,
        tile_size=tile_size,
        max_tiles=max_tiles,
        patch_size=_whole_number(where, vision, "patch_size"),
        vocab_size=_whole_number(where, text, "vocab_size"),
        image_token_id=_whole_number(where, config, "image_token_index" if "image_token_index" in config else "image_token_id"),
        max_position_embeddings=_whole_number(where, text, "max_position_embeddings"),
        eos_token_ids=_eos(path, text),
        num_hidden_layers=_whole_number(where, text, "num_hidden_layers"),
        cross_attention_layers=tuple(text["cross_attention_layers"]),
        weight_files=tuple(files),
        identity=identity,
    )


# --- the small files -----------------------------------------------------------------------------------------------------


def _refuse_quantized(path: Path, config: dict[str, Any]) -> None:
    """A quantized checkpoint has tensors of other names, types and shapes, which only the program that wrote them reads."""
    quantized = config.get("quantization_config")
    if not quantized:
        return
    method = quantized.get("quant_method") if isinstance(quantized, dict) else None
    raise CheckpointError(
        f"The checkpoint in {path} is quantized already ({method or 'unknown method'}), and this demo loads none such; set "
        "model_path to the checkpoint that it was made from, with quantization int8 or int4 for backend torch, or start a server "
        "that reads it and use backend openai."
    )


def _read_json(file: Path, remedy: str = "") -> dict[str, Any]:
    """Reads the object in a JSON file. remedy: what to do when the file is missing."""
    if not file.exists():
        raise CheckpointError(f"{file.parent} has no {file.name}; {remedy}.")
    data = file.read_bytes()
    _refuse_pointer(file, data)
    try:
        content = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); download it again.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a JSON object, not a {type(content).__name__}; download it again.")
    return content


def _check_tokenizer(file: Path) -> None:
    """Checks both ends of the file only; parsing a Llama tokenizer takes longer than all other checks."""
    if not file.exists():
        raise CheckpointError(f"{file.parent} has no {file.name}; download it from where the checkpoint came from.")
    data = file.read_bytes()
    _refuse_pointer(file, data)
    if not (data[:100].lstrip().startswith(b"{") and data[-100:].rstrip().endswith(b"}")):
        raise CheckpointError(f"{file} is not a whole JSON file ({len(data):,} bytes); download it again.")


def _refuse_pointer(file: Path, start: bytes) -> None:
    if start.startswith(_LFS_POINTER):
        raise CheckpointError(f"{file} is only a Git LFS pointer, not the file itself; run `git lfs pull` in {file.parent}.")


def _check_architecture(file: Path, config: dict[str, Any]) -> None:
    kind = config.get("model_type")
    if kind != "mllama":
        text_only = ", a text-only Llama" if kind in ("llama", "mllama_text_model") else ""
        raise CheckpointError(
            f"{file} describes a model of type {kind!r}{text_only}; this demo needs 'mllama', as of Llama-3.2-11B-Vision."
        )
    for section in ("text_config", "vision_config"):
        if not isinstance(config.get(section), dict):
            raise CheckpointError(f"{file} has no {section}; download it again.")
    layers = config["text_config"].get("cross_attention_layers")
    if not isinstance(layers, list) or not layers or not all(type(layer) is int for layer in layers):
        raise CheckpointError(f"{file} has no list of cross_attention_layers in its text_config; download it again.")


def _whole_number(file: Path, section: dict[str, Any], key: str) -> int:
    value = section.get(key)
    if type(value) is not int or value < 0:
        raise CheckpointError(f"{file} must give {key} as a whole number, but it is {value!r}; download it again.")
    return value


def _image_settings(path: Path) -> tuple[int, int]:
    """The tile size and the largest number of tiles, from preprocessor_config.json or transformers 5's processor_config.json."""
    files = [file for file in (path / "preprocessor_config.json", path / "processor_config.json") if file.exists()]
    for file in files:
        content = _read_json(file)
        settings = content.get("image_processor", content)
        size = settings.get("size") if isinstance(settings, dict) else None
        if isinstance(size, dict):
            height, width = _whole_number(file, size, "height"), _whole_number(file, size, "width")
            if height != width or height == 0:
                raise CheckpointError(f"{file} asks for tiles of {width} × {height}, but tiles are square; download it again.")
            return height, _whole_number(file, settings, "max_image_tiles")
    raise CheckpointError(
        f"{path} has no image settings (size and max_image_tiles in preprocessor_config.json or processor_config.json); "
        "download preprocessor_config.json from where the checkpoint came from."
    )


def _eos(path: Path, text: dict[str, Any]) -> tuple[int, ...]:
    file = path / "generation_config.json"
    eos = _read_json(file).get("eos_token_id") if file.exists() else None
    if eos is None:
        file, eos = path / "config.json", text.get("eos_token_id")
    given = eos if isinstance(eos, list) else [eos]
    ids = tuple(i for i in given if isinstance(i, int))
    if not ids or len(ids) < len(given):
        raise CheckpointError(f"{file} must give eos_token_id as whole numbers, but it is {eos!r}; download it again.")
    return ids


# --- the weights ---------------------------------------------------------------------------------------------------------


def _weights(path: Path) -> tuple[dict[str, _Tensor], list[str]]:
    """All tensors by name, and the names of the weight files. An index must agree with the files."""
    if (path / INDEX).exists() and not (path / "model.safetensors").exists():
        placed = _read_json(path / INDEX).get("weight_map")
        if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
            raise CheckpointError(f"{path / INDEX} has no weight_map; download it again.")
    elif (path / "model.safetensors").exists():
        placed = {}
    else:
        found = sorted(file.name for file in path.glob("*") if file.suffix in (".safetensors", ".bin", ".pth", ".gguf"))
        other = f" (but {found[0]}, which cannot be used)" if found else ""
        raise CheckpointError(f"{path} has no weights{other}; download model.safetensors, or {INDEX} and its files.")
    files = sorted(set(placed.values())) or ["model.safetensors"]
    for name in files:
        if Path(name).name != name or not (path / name).is_file():
            raise CheckpointError(f"{path / INDEX} names {name}, which is not there; download that file too.")
    headers = {name: _read_header(path / name) for name in files}
    for tensor, name in placed.items():
        if tensor not in headers[name]:
            raise CheckpointError(f"{path / name} has no tensor {tensor}, which {INDEX} places there; download both files again.")
    return {tensor: value for header in headers.values() for tensor, value in header.items()}, files


def _numbers(tensors: Mapping[str, _Tensor]) -> tuple[int, str]:
    """The number of parameters, and torch's name of the type of most of them."""
    numbers = Counter[str]()
    for tensor in tensors.values():
        numbers[tensor.dtype] += tensor.count
    common = numbers.most_common(1)[0][0]
    return numbers.total(), _DTYPES.get(common, common.lower())


def _read_header(file: Path) -> dict[str, _Tensor]:
    """Reads the header of a safetensors file: 8 bytes with its length, little-endian; JSON; then the data of the tensors.

    https://huggingface.co/docs/safetensors#format
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(len(_LFS_POINTER))
        _refuse_pointer(file, start)
        if len(start) < 8:
            raise CheckpointError(f"{file} is cut off after {size} bytes; download it again.")
        (length,) = struct.unpack("<Q", start[:8])
        if length > _MAX_HEADER:
            raise CheckpointError(f"{file} is no safetensors file (a header of {length:,} bytes is absurd); download it again.")
        if 8 + length > size:
            raise CheckpointError(f"{file} is cut off in its header ({size:,} of {8 + length:,} bytes); download it again.")
        stream.seek(8)
        raw = stream.read(length)
    try:
        tensors, data_length = _read_entries(file, json.loads(raw))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(f"{file} has a header that cannot be read; download it again.") from None
    expected = 8 + length + data_length
    if size != expected:
        problem = "is cut off" if size < expected else "is too long"
        raise CheckpointError(f"{file} {problem} ({size:,} bytes instead of {expected:,}); download it again.")
    return tensors


def _read_entries(file: Path, entries: dict[str, Any]) -> tuple[dict[str, _Tensor], int]:
    """The tensors of a header and the end of the last one. They must be contiguous and as large as their shapes say."""
    entries.pop("__metadata__", None)
    tensors: dict[str, _Tensor] = {}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        tensors[name] = tensor = _Tensor(entry["dtype"], tuple(entry["shape"]))
        bits = _BITS.get(tensor.dtype)
        if begin != position or (bits and tensor.count * bits != 8 * (end - begin)):
            raise CheckpointError(f"{file} gives the tensor {name} a place that does not fit its shape; download it again.")
        position = end
    return tensors, position


def _check_tensors(path: Path, expected: Mapping[str, Shape], tensors: Mapping[str, _Tensor]) -> None:
    """Raises CheckpointError when a tensor is missing, has another shape or belongs to no such model."""
    missing: list[str] = []
    left_over = {name for name in tensors if not name.endswith(COMPUTED)}
    for published, shape in expected.items():
        name = published if published in tensors else newer_name(published)
        if name not in tensors:
            missing.append(published)
            continue
        left_over.discard(name)
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"The weights in {path} have the tensor {name} of the shape {list(tensors[name].shape)}, but config.json asks "
                f"for {list(shape)}; download both again from one place."
            )
    if missing:
        raise CheckpointError(f"The weights in {path} lack {_tensors(missing)}; download the whole checkpoint again.")
    if left_over:
        raise CheckpointError(
            f"The weights in {path} have {_tensors(sorted(left_over))}, for which the model of config.json has no place; "
            "download both again from one place."
        )


def _tensors(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the tensor {names[0]}{more}"
