"""The names of pieces: equal exactly where all that their keys and values depend on is equal."""

from __future__ import annotations

import pytest

from mllama_demo.engine.torch.prompt_pieces import PIECE_TOKENS, divide

PROMPT = tuple(range(1000, 1000 + 3 * PIECE_TOKENS + 10))


def keys(prompt: tuple[int, ...] = PROMPT, image_at: int | None = None, image: str = "") -> list[bytes]:
    return [piece.key for piece in divide(prompt, image_at, image)]


@pytest.mark.parametrize("length", [1, PIECE_TOKENS - 1, PIECE_TOKENS, PIECE_TOKENS + 1, 3 * PIECE_TOKENS])
def test_pieces_cover_a_prompt_and_have_bounds_that_are_multiples(length: int) -> None:
    pieces = divide(PROMPT[:length], None, "")
    assert [position for piece in pieces for position in range(piece.start, piece.end)] == list(range(length))
    assert all(piece.start % PIECE_TOKENS == 0 for piece in pieces)
    assert all(piece.end - piece.start == PIECE_TOKENS for piece in pieces[:-1])


def test_a_longer_prompt_has_the_whole_pieces_of_a_shorter_one_and_no_other() -> None:
    longer, shorter = keys(), keys(PROMPT[: 2 * PIECE_TOKENS + 5])
    assert longer[:2] == shorter[:2]
    assert not set(longer[2:]) & set(shorter[2:])


@pytest.mark.parametrize("changed", [0, PIECE_TOKENS - 1, PIECE_TOKENS, len(PROMPT) - 1])
def test_a_changed_token_changes_its_piece_and_all_after_it(changed: int) -> None:
    other = keys((*PROMPT[:changed], 7, *PROMPT[changed + 1 :]))
    same = changed // PIECE_TOKENS
    assert other[:same] == keys()[:same]
    assert not set(other[same:]) & set(keys()[same:])


def test_the_same_tokens_at_another_place_have_another_name() -> None:
    assert len(set(keys((5,) * 3 * PIECE_TOKENS))) == 3


@pytest.mark.parametrize("image_at", [0, PIECE_TOKENS + 3, 3 * PIECE_TOKENS])
def test_an_image_changes_the_piece_of_its_token_and_all_after_it(image_at: int) -> None:
    one, other, none = keys(image_at=image_at, image="a"), keys(image_at=image_at, image="b"), keys()
    same = image_at // PIECE_TOKENS
    assert one[:same] == other[:same] == none[:same]
    assert len({*one[same:], *other[same:], *none[same:]}) == 3 * (len(none) - same)


def test_a_piece_sees_an_image_whose_token_is_in_it_or_before_it() -> None:
    pieces = divide(PROMPT, PIECE_TOKENS, "a")
    assert [piece.sees_image for piece in pieces] == [False, True, True, True]
    assert not any(piece.sees_image for piece in divide(PROMPT, None, ""))
