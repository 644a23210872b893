"""Checks an answer against the expectations of a scenario step, such as words that it must contain or its length.

Knows no model and no scenario.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, model_validator

_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBER_WORDS = {word: number for number, word in enumerate(_NUMBERS.split(" "))}
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_NOT_KNOWN = re.compile(
    r"\b(do not|don[’']t|cannot|can[’']t|could not|couldn[’']t|not able|unable|not sure|no idea|never learned|unknown)\b",
    re.IGNORECASE,
)


class Expectation(BaseModel):
    """The expectations of one step. All expectations that are given must hold. Whole words are compared, without their case."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    contains_any: tuple[str, ...] = Field((), strict=False, description="At least one of these words or phrases.")
    contains_all: tuple[str, ...] = Field((), strict=False, description="Every one of these words or phrases.")
    number: float | None = Field(None, strict=False, description="This number, in digits or, up to twelve, as a word.")
    yes_no: bool | None = Field(None, description="Begins with yes (true) or no (false).")
    min_words: int | None = Field(None, ge=1, le=10000)
    max_words: int | None = Field(None, ge=1, le=10000)
    does_not_know: bool | None = Field(None, description="Whether it says that it does not know or cannot.")

    @model_validator(mode="after")
    def _can_be_met(self) -> Expectation:
        if self.min_words and self.max_words and self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is above max_words ({self.max_words})")
        if any(not phrase.strip() for phrase in (*self.contains_any, *self.contains_all)):
            raise ValueError("a word to look for is empty")
        return self

    def problems(self, answer: str) -> list[str]:
        """A clause for each expectation that the answer does not meet."""
        found: list[str] = []
        count = len(answer.split())
        if not answer.strip():
            return ["the answer is empty"]
        if self.contains_any and not any(_contains(answer, phrase) for phrase in self.contains_any):
            found.append(f"none of {', '.join(self.contains_any)} is in it")
        found += [f"{phrase} is not in it" for phrase in self.contains_all if not _contains(answer, phrase)]
        if self.number is not None and self.number not in _numbers(answer):
            found.append(f"the number {self.number:g} is not in it")
        if self.yes_no is not None:
            first = _YES_NO.match(answer)
            wanted = "yes" if self.yes_no else "no"
            if first is None or first[1].lower() != wanted:
                found.append(f"it does not begin with {wanted}")
        if self.min_words is not None and count < self.min_words:
            found.append(f"it has {count} words, fewer than {self.min_words}")
        if self.max_words is not None and count > self.max_words:
            found.append(f"it has {count} words, more than {self.max_words}")
        if self.does_not_know is not None and bool(_NOT_KNOWN.search(answer)) != self.does_not_know:
            found.append("it does not say that it does not know" if self.does_not_know else "it says that it does not know")
        return found


def _contains(answer: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", answer, re.IGNORECASE) is not None


def _numbers(answer: str) -> set[float]:
    digits = re.findall(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\w)", answer)
    words = NUMBER_WORDS.keys() & set(re.findall(r"[a-z]+", answer.lower()))
    return {float(text.replace(",", "")) for text in digits} | {float(NUMBER_WORDS[word]) for word in words}
