"""Random texts in a picture: words in capitals, small letters or both, numbers, and signs of two lines."""

from __future__ import annotations

import random

from training.kinds import CHARACTERS, MAX_DIGITS, MAX_WORD, TEXT
from training.scenes import Split, Thing
from training.words import cased, word

# The model cannot tell apart letters narrower than this, in pixels of the resized picture.
MIN_LETTER_PIXELS = 15.0
SEEN_SIDE = 168  # least length of the longer side of a resized picture, in pixels (2 tiles of 84)
NUMBERS, TWO_LINES = 0.3, 0.22  # shares of texts that are numbers, and that have two lines
LETTER_WIDTH = 0.7  # of a letter, as a share of its height
LINE_HEIGHT = 1.25  # distance of two lines, as a share of the height of a letter


def text_thing(rng: random.Random, width: int, height: int, colour: str | None, split: Split) -> Thing:
    """A text somewhere in a picture of this size, in pixels, with letters large enough to be read."""
    seen_width = SEEN_SIDE * min(1.0, width / height) if max(width, height) > 84 else min(84, width)
    longest = max(1, min(MAX_WORD, int(0.95 * seen_width / MIN_LETTER_PIXELS)))
    lines = [_line(rng, longest, split)]
    seen_height = SEEN_SIDE * min(1.0, height / width) if max(width, height) > 84 else min(84, height)
    if seen_height > 70 and rng.random() < TWO_LINES:
        lines.append(_line(rng, longest, split))
    assert all(character in CHARACTERS for line in lines for character in line)
    most_letters = max(map(len, lines))
    rows = 1 + (len(lines) - 1) * LINE_HEIGHT
    # `share` is the text's width as a share of the picture's width.
    least = max(0.3, most_letters * MIN_LETTER_PIXELS / seen_width)
    most = min(0.95, most_letters * LETTER_WIDTH * 0.6 * height / width / rows)
    share = rng.uniform(min(least, 0.95), max(least, most))
    tall = min(0.92, share * width / most_letters / LETTER_WIDTH / height * rows)
    half_width, half_height = share / 2, tall / 2
    x = rng.uniform(half_width, 1 - half_width) if half_width < 0.5 else 0.5
    y = rng.uniform(half_height, 1 - half_height)
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    return Thing(TEXT, colour, box, text="\n".join(lines), style=rng.randrange(2**20))


def _line(rng: random.Random, longest: int, split: Split) -> str:
    if rng.random() < NUMBERS:
        digits = rng.randint(1, min(longest, MAX_DIGITS))
        return str(rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1))
    return cased(rng, word(rng, longest, split))
