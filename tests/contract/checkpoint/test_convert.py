# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportOptionalMemberAccess=false
"""Converted checkpoints answer as Meta's own computation on the original does, and hold what the published ones hold."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import jinja2
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tokenizers import Regex, pre_tokenizers
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, GenerationConfig, MllamaConfig
from transformers import MllamaForConditionalGeneration as Mllama
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from mllama_demo.checkpoint.meta.configs import config as published_config
from mllama_demo.checkpoint.meta.convert import convert
from mllama_demo.checkpoint.meta.layout import VisionConstants, assemble, check_tensors, meta_model, outputs
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.engine.torch.meta_mllama import restore_meta_computation
from tests.support.meta_checkpoint import (
    LLAMA_11B,
    LLAMA_90B,
    PATTERN,
    MetaOriginal,
    Sizes,
    layout,
    plain_tokens,
    random_weights,
    save,
)
from tests.support.one_thread import one_thread as one_thread

SMALL = Sizes()
EYES = VisionConstants(heads=SMALL.vision_heads, intermediate_layers=SMALL.intermediate)
TUTORIAL_FILES = {
    *("chat_template.json", "model.safetensors", "tokenizer_config.json", "config.json", "special_tokens_map.json"),
    *("generation_config.json", "tokenizer.json"),
}


@pytest.fixture(scope="module")
def weights():
    return random_weights(SMALL)


@pytest.fixture(scope="module")
def converted(tmp_path_factory, weights):
    """Output folders by number of shards; with two, the weights are divided into several files as well."""
    root, made = tmp_path_factory.mktemp("converted"), {}

    def get(shards: int) -> Path:
        if shards not in made:
            source = save(root / f"meta-{shards}", SMALL, weights, shards)
            made[shards] = root / f"hf-{shards}"
            convert(source, made[shards], instruct=True, vision=EYES, file_limit=200_000 if shards == 2 else 5 * 10**9)
        return made[shards]

    return get


# --- the computation -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def logits_of(folder: Path, ids: list[int], image: Image.Image | None, early_rows: bool = False) -> torch.Tensor:
    """transformers on the converted folder, with Meta's order of vision features and silent rows before the picture."""
    model = Mllama.from_pretrained(folder, dtype=torch.float32).eval()
    rows = restore_meta_computation(model)
    tokens = torch.tensor([ids])
    if image is None:
        return model(input_ids=tokens).logits[0]
    made = AutoImageProcessor.from_pretrained(folder)(images=[[image]], return_tensors="pt")
    spans = [get_cross_attention_token_mask(ids, model.config.image_token_index)]
    mask = convert_sparse_cross_attention_mask_to_dense(spans, made["num_tiles"], 4, len(ids))
    seen = torch.arange(len(ids)) >= ids.index(model.config.image_token_index)
    rows.mask = seen.float()[None, :, None]
    return model(input_ids=tokens, cross_attention_mask=torch.from_numpy(mask), **{k: made[k] for k in PIXELS}).logits[0]


PIXELS = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")


def some_ids(length: int, image_at: int | None = None) -> list[int]:
    rng = random.Random(length)
    ids = [rng.randrange(SMALL.vocab_size) for _ in range(length)]
    if image_at is not None:
        ids[image_at] = SMALL.vocab_size
    return ids


def picture(columns: int, rows: int) -> Image.Image:
    rng = random.Random(columns * 10 + rows)
    image = Image.new("RGB", (columns * SMALL.chunk, rows * SMALL.chunk))
    image.putdata([tuple(rng.randrange(256) for _ in range(3)) for _ in range(image.width * image.height)])
    return image


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_text_is_read_as_in_metas_computation(converted, weights, shards):
    ids = some_ids(40)
    expected = MetaOriginal(SMALL, weights).logits(ids)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits_of(converted(shards), ids, None), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 3), (4, 1), (1, 4)])
@pytest.mark.parametrize("shards", [1, 2])
def test_images_of_every_aspect_ratio_are_read_as_in_metas_computation(converted, weights, shards, columns, rows):
    ids, image = some_ids(24, image_at=2), picture(columns, rows)
    original = MetaOriginal(SMALL, weights)
    expected = original.logits(ids, original.see(image))
    assert (expected - original.logits(some_ids(24, image_at=2))).abs().max() > 0.1, "the picture must matter"
    torch.testing.assert_close(logits_of(converted(shards), ids, image), expected, atol=2e-4, rtol=0)


@pytest.mark.slow
def test_every_tensor_of_meta_changes_the_logits(weights):
    """The tests above would see any tensor mixed up: each one, changed, changes what the reference says."""
    ids, image = some_ids(24, image_at=2), picture(2, 2)
    original = MetaOriginal(SMALL, weights)
    before = original.logits(ids, original.see(image))
    for name in weights.keys() - {"text_model.rope.freqs"}:
        changed = dict(weights)
        changed[name] = weights[name].flip(0) + 0.1 * (1 + torch.arange(weights[name].numel()).reshape(weights[name].shape) % 3)
        other = MetaOriginal(SMALL, changed)
        assert (other.logits(ids, other.see(image)) - before).abs().max() > 1e-3, name


def test_an_odd_number_of_layers_is_placed_by_metas_schedule(tmp_path):
    sizes = Sizes(n_layers=5, cross=2)
    weights = random_weights(sizes)
    source = save(tmp_path / "meta", sizes, weights, 1)
    convert(source, tmp_path / "hf", instruct=False, vision=EYES)
    ids, image = some_ids(12, image_at=1), picture(1, 1)
    original = MetaOriginal(sizes, weights)
    torch.testing.assert_close(
        logits_of(tmp_path / "hf", ids, image), original.logits(ids, original.see(image)), atol=2e-4, rtol=0
    )


# --- names and shapes of the published models ----------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "shards"), [(LLAMA_11B, 1), (LLAMA_90B, 8)])
def test_the_published_models_are_converted_with_every_tensor_used(sizes, shards):
    def part(shape, cut):
        return torch.empty([n // shards if at == cut else n for at, n in enumerate(shape)], device="meta", dtype=torch.bfloat16)

    shard = {name: part(shape, cut) for name, shape, cut in layout(sizes)}
    shapes = {name: tuple(tensor.shape) for name, tensor in shard.items()}
    model = meta_model(sizes.params, shapes, shards, VisionConstants())
    check_tensors(model, shapes, shards)
    made = {output.name: tuple(assemble(output, [shard] * shards).shape) for output in outputs(model)}
    with torch.device("meta"):
        there = Mllama(MllamaConfig.from_dict(published_config(model, "bfloat16", instruct=True)))
    expected = {older_name(name): tuple(tensor.shape) for name, tensor in there.state_dict().items()}
    assert made == expected
    used = {source for output in outputs(model) for source in output.sources}
    assert used == shard.keys() - {"text_model.rope.freqs"}
    parameters = sum(torch.Size(shape).numel() for shape in made.values())
    assert parameters == {1: 10_670_220_835, 8: 88_593_355_323}[shards]


def older_name(name: str) -> str:
    for new, old in (("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")):
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name.removeprefix("model.")


@pytest.mark.parametrize(
    ("sizes", "layers", "ffn", "first_and_last"), [(LLAMA_11B, 40, 14336, (3, 38)), (LLAMA_90B, 100, 28672, (3, 98))]
)
def test_the_published_configurations(sizes, layers, ffn, first_and_last):
    shapes = {name: shape for name, shape, _ in layout(sizes)}
    written = MllamaConfig.from_dict(published_config(meta_model(sizes.params, shapes, 1, VisionConstants()), "bfloat16", True))
    default = MllamaConfig()  # transformers' defaults are the 11B model's
    text, vision = written.text_config, written.vision_config
    assert (text.num_hidden_layers, text.intermediate_size, text.vocab_size) == (layers, ffn, 128256)
    assert text.cross_attention_layers == list(range(3, layers, 5))
    assert (text.cross_attention_layers[0], text.cross_attention_layers[-1]) == first_and_last
    rope = text.rope_parameters if hasattr(text, "rope_parameters") else {**text.rope_scaling, "rope_theta": text.rope_theta}
    assert rope["rope_theta"] == 500000.0
    assert {key: rope[key] for key in ("rope_type", "factor", "original_max_position_embeddings")} == {
        "rope_type": "llama3",
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
    }
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == (128000, [128001, 128008, 128009], 128004)
    assert (written.image_token_index, vision.image_size, vision.vision_output_dim) == (128256, 560, 7680)
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_global_layers", "intermediate_layers_indices",
                "patch_size", "max_num_tiles", "supported_aspect_ratios", "norm_eps", "hidden_act"):  # fmt: skip
        assert getattr(vision, key) == getattr(default.vision_config, key), key


# --- the folder ----------------------------------------------------------------------------------------------------------


def test_the_folder_holds_the_tutorials_files_and_passes_the_demos_check(converted):
    folder = converted(1)
    assert {file.name for file in folder.iterdir()} == TUTORIAL_FILES | {"preprocessor_config.json"}
    found = check_checkpoint(folder)
    assert (found.tile_size, found.max_tiles, found.image_token_id) == (SMALL.chunk, 4, SMALL.vocab_size)
    assert found.cross_attention_layers == (1, 4)
    assert not folder.with_name(folder.name + ".converting").exists()


def test_large_weights_are_divided_and_the_index_names_every_file(converted):
    folder = converted(2)
    placed = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted({*placed["weight_map"].values()})
    assert len(files) > 3
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert check_checkpoint(folder).weight_files == tuple(files)
    total = 0
    for file in files:
        with safe_open(folder / file, "pt") as opened:
            assert sorted(opened.keys()) == sorted(name for name, where in placed["weight_map"].items() if where == file)
            total += sum(tensor.numel() * tensor.element_size() for tensor in map(opened.get_tensor, opened.keys()))
    assert placed["metadata"]["total_size"] == total


def test_the_number_of_shards_and_of_files_does_not_change_a_single_weight(converted):
    one, two = (Mllama.from_pretrained(converted(shards)).state_dict() for shards in (1, 2))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_number_format_is_kept(tmp_path, weights, dtype):
    source = save(tmp_path / "meta", SMALL, {name: tensor.to(dtype) for name, tensor in weights.items()}, 2)
    convert(source, tmp_path / "hf", instruct=True, vision=EYES)
    assert check_checkpoint(tmp_path / "hf").dtype == str(dtype).removeprefix("torch.")
    model = Mllama.from_pretrained(tmp_path / "hf", dtype="auto")
    gate = weights["text_model.cross_attention_layers.1.gate_attn"].to(dtype)
    assert model.model.language_model.layers[4].cross_attn_attn_gate.equal(gate)


def test_a_gate_that_is_repeated_becomes_one_number(tmp_path, weights):
    name = "text_model.cross_attention_layers.0.gate_attn"
    source = save(tmp_path / "meta", SMALL, weights | {name: weights[name].expand(SMALL.dim).clone()}, 1)
    convert(source, tmp_path / "hf", instruct=True, vision=EYES)
    assert Mllama.from_pretrained(tmp_path / "hf").model.language_model.layers[1].cross_attn_attn_gate.equal(weights[name])


# --- the tokenizer -------------------------------------------------------------------------------------------------------


def tiktoken(text: str, tokens: list[bytes]) -> list[int]:
    """Byte-pair encoding as tiktoken does it: the pair that makes the lowest rank first, the leftmost of equals."""
    rank = {token: number for number, token in enumerate(tokens)}
    words = pre_tokenizers.Split(Regex(PATTERN), "isolated").pre_tokenize_str(text)
    ids: list[int] = []
    for word, _ in words:
        data = word.encode()
        parts = [data] if data in rank else [bytes([byte]) for byte in data]
        while True:
            made = [(rank[a + b], at) for at, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in rank]
            if not made:
                break
            _, at = min(made)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [rank[part] for part in parts]
    return ids


TEXTS = [
    "hello world, the llama's 123456 things we'll see",
    "  leading\n\n\ntrailing  \t ",
    "café 日本語 🙂 the\r\nworld",
    "<|eot_id|>",
    "",
    "    four    spaces",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_becomes_the_tokens_that_tiktoken_makes(converted, text):
    tokenizer = AutoTokenizer.from_pretrained(converted(1))
    tokens = plain_tokens(SMALL.vocab_size - 256)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert ids == tiktoken(text, tokens)
    assert tokenizer.decode(ids) == text
    assert tokenizer(text, split_special_tokens=True).input_ids == [len(tokens), *ids]


def test_random_text_becomes_the_tokens_that_tiktoken_makes(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted(1))
    tokens, rng = plain_tokens(SMALL.vocab_size - 256), random.Random(0)
    pieces = ["the", "hello", "ing", " ", "llama", "\n", "é", "日本", "12", "'ll", "lla", "the the", "a", "l"]
    for _ in range(300):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 12)))
        assert tokenizer(text, add_special_tokens=False).input_ids == tiktoken(text, tokens), text


def test_special_tokens_have_the_ids_of_the_published_vocabulary(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted(1))
    first = SMALL.vocab_size - 256  # 128000 there
    places = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<|finetune_right_pad_id|>": 4, "<|start_header_id|>": 6,
              "<|end_header_id|>": 7, "<|eom_id|>": 8, "<|eot_id|>": 9, "<|python_tag|>": 10, "<|image|>": 256}  # fmt: skip
    assert {name: tokenizer.convert_tokens_to_ids(name) - first for name in places} == places
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
    )
    assert len(tokenizer) == SMALL.vocab_size + 1


# --- the chat template ---------------------------------------------------------------------------------------------------


def user(text: str, image: bool = False) -> dict:
    return {"role": "user", "content": [*([{"type": "image"}] if image else []), {"type": "text", "text": text}]}


TURN = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>".format
ANSWER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (  # the tutorial's prompt
            [user("What is in this image? Tell me a story", image=True)],
            "<|begin_of_text|>" + TURN("user", "<|image|>What is in this image? Tell me a story") + ANSWER,
        ),
        ([user("Hi")], "<|begin_of_text|>" + TURN("system", DATES) + TURN("user", "Hi") + ANSWER),
        (
            [{"role": "system", "content": " Be brief. \n"}, {"role": "user", "content": " Hi "}],
            "<|begin_of_text|>" + TURN("system", DATES + "Be brief.") + TURN("user", " Hi ") + ANSWER,
        ),
        (
            [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, user("Hi")],
            "<|begin_of_text|>" + TURN("system", DATES + "Be brief.") + TURN("user", "Hi") + ANSWER,
        ),
        (
            [user("Look", image=True), {"role": "assistant", "content": "A dog."}, user("Its name?")],
            "<|begin_of_text|>"
            + TURN("user", "<|image|>Look")
            + TURN("assistant", "A dog.")
            + TURN("user", "Its name?")
            + ANSWER,
        ),
    ],
)
def test_the_chat_template_writes_the_published_format(converted, messages, expected):
    processor = AutoProcessor.from_pretrained(converted(1))
    for speaker in (processor, AutoTokenizer.from_pretrained(converted(1))):
        made = speaker.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, date_string="26 Jul 2024")
        assert made == expected


def test_the_chat_template_refuses_what_the_model_cannot_read(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted(1))
    with pytest.raises(jinja2.exceptions.TemplateError, match="system message and an image"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}, user("y", image=True)], tokenize=False)
    with pytest.raises(jinja2.exceptions.TemplateError, match="no tools"):
        tokenizer.apply_chat_template([user("y")], tools=[{"type": "function", "function": {"name": "f"}}], tokenize=False)


def test_without_a_date_the_template_takes_todays_or_the_published_one(converted):
    template = json.loads((converted(1) / "chat_template.json").read_text())["chat_template"]
    bare = jinja2.Environment().from_string(template).render(messages=[user("Hi")], bos_token="")
    assert "Today Date: 26 Jul 2024\n" in bare
    today = jinja2.Environment().from_string(template).render(messages=[user("Hi")], bos_token="", strftime_now=lambda f: f)
    assert "Today Date: %d %b %Y\n" in today


def test_a_base_model_has_no_chat_template_and_ends_with_its_documents(tmp_path, weights):
    convert(save(tmp_path / "meta", SMALL, weights, 1), tmp_path / "hf", instruct=False, vision=EYES)
    assert not (tmp_path / "hf" / "chat_template.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (tokenizer.chat_template, tokenizer.eos_token) == (None, "<|end_of_text|>")
    end = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    assert GenerationConfig.from_pretrained(tmp_path / "hf").eos_token_id == end
    assert check_checkpoint(tmp_path / "hf").eos_token_ids == (end,)
