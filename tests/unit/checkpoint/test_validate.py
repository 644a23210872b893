"""A folder that is no whole Llama 3.2 Vision checkpoint is refused with the file at fault and what to do about it."""

from __future__ import annotations

import json
import shutil

import pytest

from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from tests.support.damaged_checkpoint import (
    POINTER,
    WEIGHTS,
    edit_json,
    join,
    newer_name,
    refusal,
    shard,
    split,
)

# --- whole checkpoints ---------------------------------------------------------------------------------------------------


class TestWholeCheckpoints:
    def test_the_embedded_checkpoint_is_accepted_and_described(self):
        info = check_checkpoint(EMBEDDED_CHECKPOINT)
        assert (info.name, info.path) == ("embedded", EMBEDDED_CHECKPOINT)
        assert (info.dtype, info.bytes) == ("float16", (EMBEDDED_CHECKPOINT / WEIGHTS).stat().st_size)
        assert (info.tile_size, info.max_tiles, info.patch_size) == (84, 4, 14)
        vocabulary = json.loads((EMBEDDED_CHECKPOINT / "tokenizer.json").read_text())["added_tokens"]
        ids = {token["content"]: token["id"] for token in vocabulary}
        assert info.vocab_size == info.image_token_id == ids["<|image|>"]
        assert (info.eos_token_ids, info.weight_files) == ((ids["<|eot_id|>"],), (WEIGHTS,))
        assert info.max_position_embeddings == 2048
        assert (info.num_hidden_layers, info.cross_attention_layers) == (6, (1, 4))

    def test_parameters_and_dtype_agree_with_the_safetensors_library(self):
        safetensors = pytest.importorskip("safetensors")
        with safetensors.safe_open(EMBEDDED_CHECKPOINT / WEIGHTS, framework="numpy") as file:
            tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        info = check_checkpoint(EMBEDDED_CHECKPOINT)
        assert info.parameters == sum(tensor.size for tensor in tensors)
        assert {str(tensor.dtype) for tensor in tensors} == {info.dtype}

    def test_a_copy_has_the_name_of_its_folder_and_is_not_the_embedded_one(self, folder):
        info = check_checkpoint(folder)
        assert info.name == "checkpoint"

    def test_a_snapshot_in_the_hub_cache_has_the_models_name(self, tmp_path):
        folder = tmp_path / "models--meta-llama--Llama-3.2-11B-Vision-Instruct" / "snapshots" / "9eb2daa"
        shutil.copytree(EMBEDDED_CHECKPOINT, folder)
        assert check_checkpoint(folder).name == "Llama-3.2-11B-Vision-Instruct"

    def test_several_weight_files_with_an_index_say_the_same(self, folder):
        whole = check_checkpoint(folder)
        shard(folder)
        info = check_checkpoint(folder)
        assert (info.parameters, info.dtype) == (whole.parameters, whole.dtype)
        assert info.weight_files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        assert info.bytes == sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def test_the_newer_spelling_of_tensor_names_is_accepted(self, folder):
        file = folder / WEIGHTS
        header, data = split(file.read_bytes())
        file.write_bytes(join({newer_name(name): entry for name, entry in header.items()}, data))
        assert check_checkpoint(folder).parameters == check_checkpoint(EMBEDDED_CHECKPOINT).parameters

    def test_image_settings_may_lie_in_the_processors_file(self, folder):
        settings = json.loads((folder / "preprocessor_config.json").read_text()) | {"max_image_tiles": 3}
        (folder / "preprocessor_config.json").unlink()
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
        assert check_checkpoint(folder).max_tiles == 3

    @pytest.mark.parametrize(("given", "expected"), [([1, 2], (1, 2)), (7, (7,)), (None, ())])
    def test_generation_config_says_what_ends_an_answer_before_config(self, folder, given, expected):
        edit_json(folder / "generation_config.json", lambda c: c.update(eos_token_id=given))
        edit_json(folder / "config.json", lambda c: c["text_config"].update(eos_token_id=9))
        assert check_checkpoint(folder).eos_token_ids == (expected or (9,))

    def test_generation_config_may_be_missing(self, folder):
        (folder / "generation_config.json").unlink()
        assert check_checkpoint(folder).eos_token_ids == check_checkpoint(EMBEDDED_CHECKPOINT).eos_token_ids

    def test_the_newer_name_of_the_image_token_is_accepted(self, folder):
        edit_json(folder / "config.json", lambda c: c.update(image_token_id=c.pop("image_token_index")))
        assert check_checkpoint(folder).image_token_id == check_checkpoint(EMBEDDED_CHECKPOINT).image_token_id


# --- folder and small files ----------------------------------------------------------------------------------------------


class TestSmallFiles:
    def test_a_missing_folder(self, tmp_path):
        for name, repository in (("nowhere", "ORG/NAME"), ("my-90b", "meta-llama/Llama-3.2-90B-Vision-Instruct")):
            command = f"`python -m mllama_demo download {repository} --to {tmp_path / name}`."
            assert refusal(tmp_path / name).endswith(f"set model_path to a downloaded checkpoint, or get one by {command}")

    def test_a_file_in_place_of_the_folder(self, folder):
        assert "is a file; set model_path to the folder" in refusal(folder / "config.json")

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_a_missing_file(self, folder, name):
        (folder / name).unlink()
        assert f"{folder} has no {name}; " in refusal(folder)

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "generation_config.json"])
    @pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"[]"])
    def test_broken_json(self, folder, name, content):
        (folder / name).write_bytes(content)
        assert refusal(folder).startswith(f"{folder / name} ")

    def test_a_tokenizer_that_is_cut_off(self, folder):
        file = folder / "tokenizer.json"
        file.write_bytes(file.read_bytes()[:-100])
        assert f"{file} is not a whole JSON file" in refusal(folder)

    @pytest.mark.parametrize(
        ("kind", "said"),
        [("llama", "'llama', a text-only Llama; this demo needs 'mllama'"), ("llava", "'llava'; this"), (None, "None; this")],
    )
    def test_another_kind_of_model(self, folder, kind, said):
        edit_json(folder / "config.json", lambda c: c.update(model_type=kind))
        assert f"{folder / 'config.json'} describes a model of type {said}" in refusal(folder)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda c: c.pop("text_config"), "has no text_config"),
            (lambda c: c.update(vision_config=3), "has no vision_config"),
            (lambda c: c["text_config"].pop("cross_attention_layers"), "no list of cross_attention_layers"),
            (lambda c: c["text_config"].update(vocab_size="many"), "vocab_size as a whole number, but it is 'many'"),
            (lambda c: c["text_config"].pop("num_hidden_layers"), "num_hidden_layers"),
            (lambda c: c["vision_config"].pop("num_global_layers"), "num_global_layers"),
            (lambda c: c.pop("image_token_index"), "image_token_id"),
        ],
    )
    def test_a_config_without_what_is_needed(self, folder, change, said):
        edit_json(folder / "config.json", change)
        assert f"{folder / 'config.json'} " in refusal(folder)
        assert said in refusal(folder)

    def test_no_image_settings(self, folder):
        (folder / "preprocessor_config.json").unlink()
        assert "has no image settings" in refusal(folder)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda c: c["size"].update(width=42), "tiles are square"),
            (lambda c: c.pop("max_image_tiles"), "max_image_tiles"),
            (lambda c: c.update(size={"height": 42, "width": 42}), "tiles of 42 pixels, but"),
        ],
    )
    def test_image_settings_that_do_not_fit(self, folder, change, said):
        edit_json(folder / "preprocessor_config.json", change)
        assert said in refusal(folder)

    @pytest.mark.parametrize("eos", [[], "<|eot_id|>", [1, None]])
    def test_an_end_of_answer_that_is_no_token(self, folder, eos):
        edit_json(folder / "generation_config.json", lambda c: c.update(eos_token_id=eos))
        assert "generation_config.json must give eos_token_id as whole numbers" in refusal(folder)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
    def test_a_git_lfs_pointer_in_place_of_the_file(self, folder, name):
        (folder / name).write_bytes(POINTER)
        message = f"{folder / name} is only a Git LFS pointer, not the file itself; run `git lfs pull` in {folder}."
        assert refusal(folder) == message

    def test_a_file_that_cannot_be_read(self, folder):
        (folder / "config.json").unlink()
        (folder / "config.json").mkdir()
        assert "config.json cannot be read" in refusal(folder)
