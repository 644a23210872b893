"""The tokenizer against the libraries that define it, and its streaming against its own whole answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerFast

import mllama_demo
from mllama_demo.chat.tokenizer import IncrementalText, Tokenizer
from mllama_demo.errors import CheckpointError

EMBEDDED = Path(mllama_demo.__file__).parent / "embedded"
TOKENIZER = Tokenizer(EMBEDDED)
RAW = RawTokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
VOCABULARY = RAW.get_vocab_size()
SPECIALS = [token["content"] for token in json.loads((EMBEDDED / "tokenizer.json").read_text())["added_tokens"]]
ID_OF_BYTE = {TOKENIZER.token_bytes(id): id for id in range(VOCABULARY) if len(TOKENIZER.token_bytes(id)) == 1}

look_alikes = st.sampled_from([*SPECIALS, "<|", "|>", "<|eot_id", "<|image|", "<|start_header_id|>system<|end_header_id|>\n\n"])
texts_with_look_alikes = st.lists(st.text(max_size=8) | look_alikes, max_size=6).map("".join)
# Ids past the vocabulary included: the embedding has more rows than there are tokens.
any_ids = st.lists(st.integers(0, VOCABULARY + 10) | st.sampled_from(sorted(ID_OF_BYTE.values())), max_size=30)
byte_ids = st.binary(max_size=30).map(lambda data: [ID_OF_BYTE[bytes([byte])] for byte in data])


def ids_of(pieces: Sequence[str]) -> list[int]:
    """A model may cut a text into tokens in more ways than the tokenizer does."""
    return [id for piece in pieces for id in TOKENIZER.encode(piece)]


def stream(token_ids: Sequence[int], stop: Sequence[str] = ()) -> tuple[list[str], IncrementalText]:
    """What each push gave, and finish last."""
    text = IncrementalText(TOKENIZER, stop)
    return [*(text.push(id) for id in token_ids), text.finish()], text


# --- text to ids ---------------------------------------------------------------------------------------------------------


def test_every_byte_has_a_token_of_its_own():
    assert len(ID_OF_BYTE) == 256


@settings(max_examples=200, deadline=None)
@given(st.text() | texts_with_look_alikes)
@example("  leading, trailing  ")
@example("\r\n\t\n\n\x00\x1c\u00a0\u2028\ufeff\ufffd")
@example("🏳️‍🌈 e\u0301 한국어 𝔘")
def test_any_text_survives_encoding_and_decoding(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.fixture(scope="module")
def of_transformers() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(EMBEDDED / "tokenizer.json"), split_special_tokens=True)


@settings(max_examples=300, deadline=None)
@given(text=st.text() | texts_with_look_alikes)
@example(text="<|begin_of_text|>Hello<|eot_id|>")
@example(text="What is in this image? Tell me a story")
def test_text_is_cut_into_the_tokens_of_transformers_with_special_tokens_split(of_transformers, text):
    assert TOKENIZER.encode(text) == of_transformers.encode(text, add_special_tokens=False, split_special_tokens=True)


@given(texts_with_look_alikes)
@settings(max_examples=200, deadline=None)
def test_no_text_becomes_a_special_token(text):
    assert not set(TOKENIZER.encode(text)) & {RAW.token_to_id(name) for name in SPECIALS}


@pytest.mark.parametrize("name", SPECIALS)
def test_special_tokens_are_found_by_name_and_stand_for_no_text(name):
    assert TOKENIZER.special_id(name) == RAW.token_to_id(name)
    assert TOKENIZER.token_bytes(TOKENIZER.special_id(name)) == b""


def test_a_missing_special_token_is_named():
    with pytest.raises(CheckpointError, match=r"<\|no_such_token\|>"):
        TOKENIZER.special_id("<|no_such_token|>")


def test_an_ordinary_token_is_not_a_special_one():
    assert RAW.token_to_id("a") is not None
    with pytest.raises(CheckpointError):
        TOKENIZER.special_id("a")


@pytest.mark.parametrize("content", [None, "", "{}", "not JSON"])
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)


# --- ids to text ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(any_ids | byte_ids)
@example([ID_OF_BYTE[bytes([byte])] for byte in b"\xf0\x9f\x98"])
@example([ID_OF_BYTE[bytes([byte])] for byte in b"\xe2\x82a\xff\xc3\xed\xa0\x80\xf4\x90\x80\x80"])
@example([ID_OF_BYTE[b"\xc3"], RAW.token_to_id("<|eot_id|>"), ID_OF_BYTE[b"\xa9"]])
def test_any_ids_are_the_text_that_tokenizers_decodes(token_ids):
    assert TOKENIZER.decode(token_ids) == RAW.decode(token_ids, skip_special_tokens=True)


def test_an_incomplete_character_is_shown_as_a_replacement_character():
    assert TOKENIZER.decode([ID_OF_BYTE[b"a"], ID_OF_BYTE[b"\xe2"], ID_OF_BYTE[b"\x82"]]) == "a\ufffd"


# --- streaming -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(any_ids | byte_ids)
def test_the_streamed_pieces_are_the_decoded_text(token_ids):
    pieces, text = stream(token_ids)
    whole = TOKENIZER.decode(token_ids)
    assert "".join(pieces) == whole
    assert text.stopped is None
    # Each push is final: never a replacement character for what the next token completes.
    for count in range(len(pieces)):
        assert whole.startswith("".join(pieces[:count]))


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_each_character_is_streamed_with_its_last_byte(text):
    stream = IncrementalText(TOKENIZER)
    for character in text:
        *first, last = [ID_OF_BYTE[bytes([byte])] for byte in character.encode()]
        assert [stream.push(id) for id in first] == [""] * len(first)
        assert stream.push(last) == character
    assert stream.finish() == ""


# --- stop strings --------------------------------------------------------------------------------------------------------

letters = st.text("ab\né", min_size=1, max_size=3)
answers = st.lists(letters, max_size=12)
stop_strings = st.text("ab\né", min_size=1, max_size=4)
none_within_another = st.lists(stop_strings, min_size=1, max_size=3, unique=True).filter(
    lambda stops: not any(a in b for a in stops for b in stops if a != b)
)


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the earliest stop string begins."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(answers, none_within_another)
@example(["a", "a", "a", "b"], ["aab"])
@example(["aaa", "b"], ["aab"])
@example(["ab", "ab", "a", "a"], ["abaa"])
@example(["a", "b", "a"], ["ab\n", "ba"])
def test_the_stream_ends_where_the_earliest_stop_string_begins(pieces, stops):
    token_ids, whole = ids_of(pieces), "".join(pieces)
    streamed, text = stream(token_ids, stops)
    at = first_stop(whole, stops)
    assert "".join(streamed) == whole[:at]
    assert (text.stopped is None) == (at is None)
    if text.stopped is not None:
        assert whole.startswith(text.stopped, at)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(answers, st.lists(stop_strings, min_size=1, max_size=4))
@example(["ab", "a"], ["aba", "b"])
def test_with_stop_strings_inside_others_the_first_to_be_complete_ends_the_stream(pieces, stops):
    token_ids = ids_of(pieces)
    streamed, text = stream(token_ids, stops)
    so_far = b""
    for id in token_ids:
        so_far += TOKENIZER.token_bytes(id)
        seen = so_far.decode(errors="ignore")
        if (at := first_stop(seen, stops)) is not None:
            assert "".join(streamed) == seen[:at]
            assert text.stopped in stops
            assert seen.startswith(str(text.stopped), at)
            return
    assert "".join(streamed) == "".join(pieces)
    assert text.stopped is None


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(answers, st.lists(stop_strings, min_size=1, max_size=3))
def test_no_more_is_held_back_than_may_become_a_stop_string(pieces, stops):
    text, so_far, emitted = IncrementalText(TOKENIZER, stops), b"", ""
    for id in ids_of(pieces):
        so_far += TOKENIZER.token_bytes(id)
        emitted += text.push(id)
        if text.stopped is not None:
            break
        held = so_far.decode(errors="ignore")[len(emitted) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


@settings(max_examples=200, deadline=None)
@given(answers, st.text("ab\né", max_size=5), stop_strings)
def test_nothing_comes_after_a_stop_string(pieces, rest, stop):
    text = IncrementalText(TOKENIZER, [stop])
    for id in ids_of([*pieces, stop]):
        text.push(id)
    assert text.stopped == stop
    assert [text.push(id) for id in TOKENIZER.encode(rest)] == [""] * len(TOKENIZER.encode(rest))
    assert text.finish() == ""


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(any_ids, st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3))
def test_of_any_tokens_no_stop_string_is_ever_emitted(token_ids, stops):
    streamed, text = stream(token_ids, stops)
    emitted, whole = "".join(streamed), TOKENIZER.decode(token_ids)
    assert whole.startswith(emitted)
    assert first_stop(emitted, stops) is None
    assert text.stopped is not None or emitted == whole


def test_a_stop_string_that_only_began_is_given_back_at_the_end():
    streamed, text = stream(ids_of(["a", "b", "EN"]), ["END"])
    assert "".join(streamed[:-1]) == "ab"
    assert streamed[-1] == "EN"
    assert text.stopped is None


def test_a_stop_string_may_be_completed_by_the_replacement_of_a_broken_character():
    streamed, text = stream([*TOKENIZER.encode("a"), ID_OF_BYTE[b"\xe2"]], ["\ufffd"])
    assert "".join(streamed) == "a"
    assert text.stopped == "\ufffd"
