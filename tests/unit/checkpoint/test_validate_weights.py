"""Weights that are damaged, incomplete or of another model are refused with the file and the tensor at fault."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from mllama_demo.checkpoint.validate import INDEX, check_checkpoint
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from tests.support.damaged_checkpoint import (
    WEIGHTS,
    edit_header,
    edit_json,
    join,
    leave_out,
    refusal,
    shard,
)

# --- weights -------------------------------------------------------------------------------------------------------------


class TestWeights:
    def test_no_weights(self, folder):
        (folder / WEIGHTS).unlink()
        assert f"{folder} has no weights; download model.safetensors" in refusal(folder)

    def test_weights_in_another_format(self, folder):
        (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
        assert "no weights (but pytorch_model.bin, which cannot be used)" in refusal(folder)

    @pytest.mark.parametrize("left", [0, 7, 8, 100, 5000, -1])
    def test_a_file_that_is_cut_off(self, folder, left):
        file = folder / WEIGHTS
        file.write_bytes(file.read_bytes()[:left])
        message = refusal(folder)
        assert message.startswith(f"{file} is cut off")
        assert message.endswith("download it again.")

    def test_a_file_that_is_too_long(self, folder):
        with (folder / WEIGHTS).open("ab") as stream:
            stream.write(b"x")
        size = (EMBEDDED_CHECKPOINT / WEIGHTS).stat().st_size
        assert f"is too long ({size + 1:,} bytes instead of {size:,})" in refusal(folder)

    def test_an_absurd_header_length(self, folder):
        file = folder / WEIGHTS
        file.write_bytes(b"<!DOCTYPE html><html>Not found</html>")
        assert refusal(folder).startswith(f"{file} is no safetensors file")

    @pytest.mark.parametrize(
        "header",
        [
            b"not json",
            b"[]",
            b'{"a": 1}',
            b'{"a": {"dtype": "F16"}}',
            b'{"a": {"dtype": 1, "shape": ["x"], "data_offsets": [0]}}',
        ],
    )
    def test_a_header_that_cannot_be_read(self, folder, header):
        (folder / WEIGHTS).write_bytes(join(header, b""))
        assert f"{folder / WEIGHTS} has a header that cannot be read" in refusal(folder)

    @pytest.mark.parametrize(
        "change",
        [
            lambda entry: entry.update(shape=[193]),
            lambda entry: entry.update(dtype="F32"),
            lambda entry: entry.update(data_offsets=[entry["data_offsets"][0] + 2, entry["data_offsets"][1] + 2]),
        ],
        ids=["shape", "dtype", "offsets"],
    )
    def test_a_tensor_whose_place_does_not_fit_its_shape(self, folder, change):
        edit_header(folder / WEIGHTS, lambda header: change(header["language_model.model.norm.weight"]))
        message = refusal(folder)
        assert "does not fit its shape" in message
        assert "language_model.model.norm.weight" in message

    @pytest.mark.parametrize(
        "name",
        [
            "language_model.lm_head.weight",
            "language_model.model.embed_tokens.weight",
            "language_model.model.layers.4.cross_attn.q_proj.weight",
            "language_model.model.layers.5.self_attn.q_proj.weight",
            "vision_model.patch_embedding.weight",
            "vision_model.global_transformer.layers.0.self_attn.q_proj.weight",
            "multi_modal_projector.weight",
        ],
    )
    def test_a_missing_tensor(self, folder, name):
        edit_header(folder / WEIGHTS, lambda header: header.update({"another": header.pop(name)}))
        assert refusal(folder) == f"The weights in {folder} lack the tensor {name}; download the whole checkpoint again."

    @pytest.mark.parametrize(
        "name",
        [
            "language_model.model.layers.3.mlp.down_proj.weight",
            "language_model.model.layers.1.cross_attn_mlp_gate",
            "language_model.model.layers.4.cross_attn.k_norm.weight",
            "vision_model.class_embedding",
            "vision_model.transformer.layers.2.mlp.fc2.bias",
            "vision_model.gated_positional_embedding.tile_embedding.weight",
            "multi_modal_projector.bias",
        ],
    )
    def test_any_tensor_that_is_left_out_is_named(self, folder, name):
        leave_out(folder / WEIGHTS, name)
        assert refusal(folder) == f"The weights in {folder} lack the tensor {name}; download the whole checkpoint again."

    def test_several_missing_tensors_are_counted(self, folder):
        leave_out(folder / WEIGHTS, *(f"language_model.model.layers.3.mlp.{part}_proj.weight" for part in ("gate", "up", "down")))
        assert "lack the tensor language_model.model.layers.3.mlp.gate_proj.weight and 2 more; download" in refusal(folder)

    def test_tied_embeddings_do_not_replace_the_output_layer(self, folder):
        leave_out(folder / WEIGHTS, "language_model.lm_head.weight")
        edit_json(folder / "config.json", lambda c: c["text_config"].update(tie_word_embeddings=True))
        assert "lack the tensor language_model.lm_head.weight" in refusal(folder)

    @pytest.mark.parametrize(
        ("name", "shape"),
        [("language_model.model.layers.0.mlp.up_proj.weight", [192, 512]), ("vision_model.class_embedding", [1, 160])],
    )
    def test_a_tensor_of_another_shape_is_named_with_both_shapes(self, folder, name, shape):
        edit_header(folder / WEIGHTS, lambda header: header[name].update(shape=shape))
        message = refusal(folder)
        assert f"the tensor {name} of the shape {shape}, but config.json asks for [" in message

    def test_a_tensor_of_no_such_model_is_named(self, folder):
        edit_json(folder / "config.json", lambda c: c["text_config"].update(num_hidden_layers=5))
        message = refusal(folder)
        assert "have the tensor language_model.model.layers.5." in message
        assert "for which the model of config.json has no place" in message

    def test_a_stored_buffer_that_is_computed_is_no_fault(self, folder):
        def add(header: dict[str, Any]) -> None:
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            header["language_model.model.rotary_emb.inv_freq"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}

        edit_header(folder / WEIGHTS, add)
        assert check_checkpoint(folder).num_hidden_layers == 6

    @pytest.mark.parametrize(
        ("section", "said"), [({"quant_method": "bitsandbytes"}, "bitsandbytes"), ({"bits": 4}, "unknown method")]
    )
    def test_weights_that_are_quantized_already(self, folder, section, said):
        edit_json(folder / "config.json", lambda c: c.update(quantization_config=section))
        message = refusal(folder)
        assert message.startswith(
            f"The checkpoint in {folder} is quantized already ({said}), and this demo loads none such; set "
        )
        assert "quantization int8 or int4" in message


class TestIndex:
    def test_a_missing_shard(self, folder):
        shard(folder)
        (folder / "model-00002-of-00002.safetensors").unlink()
        message = f"{folder / INDEX} names model-00002-of-00002.safetensors, which is not there; download that file too."
        assert refusal(folder) == message

    def test_a_tensor_that_is_not_in_its_shard(self, folder):
        placed = shard(folder)
        name = next(tensor for tensor, file in placed.items() if "00001" in file)
        edit_json(folder / INDEX, lambda c: c["weight_map"].update({name: "model-00002-of-00002.safetensors"}))
        assert f"model-00002-of-00002.safetensors has no tensor {name}, which {INDEX} places there" in refusal(folder)

    def test_a_shard_that_is_cut_off(self, folder):
        shard(folder)
        file = folder / "model-00002-of-00002.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        assert refusal(folder).startswith(f"{file} is cut off")

    def test_a_shard_outside_the_folder(self, folder):
        shard(folder)
        shutil.move(folder / "model-00002-of-00002.safetensors", folder.parent / "outside.safetensors")
        edit_json(
            folder / INDEX,
            lambda c: c["weight_map"].update({n: "../outside.safetensors" for n, f in c["weight_map"].items() if "00002" in f}),
        )
        assert "names ../outside.safetensors" in refusal(folder)

    @pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": []}'])
    def test_an_index_without_a_map(self, folder, content):
        shard(folder)
        (folder / INDEX).write_text(content)
        assert f"{folder / INDEX} has no weight_map" in refusal(folder)
