"""What the Explore page says: the guided tour, and why a view is not there. Words and values alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mllama_demo.backend.base import BackendInfo

PARTINGS = {
    "by_hand": "In one of them this token was chosen by hand, so its branch goes another way from here.",
    "random_number": "Both could have drawn either token: the random numbers or the probabilities differed.",
    "filters": "One of them could not have drawn the other's token: a filter had cut it.",
    "greedy": "Greedy takes the likeliest token, whatever the others would have drawn.",
    "unknown": "The record does not tell why.",
}
# After a sentence that says why an answer is not complete.
EARLIER_STAYS = "The earlier answer stays."
NOTHING_OF_ITS_OWN = "Nothing of it is kept."


@dataclass(frozen=True)
class TourStep:
    """One run of the tour. grid: as make_grid takes it. image: an example's file name. cell, token: what is shown of it."""

    title: str
    text: str
    grid: dict[str, Any]
    image: str | None = None
    cell: int = 0
    token: int = 1
    values: dict[str, float] = field(default_factory=dict)


_STORY = {"prompt": "What is in this image? Tell me a story", "max_tokens": 40}
TOUR = (
    TourStep(
        "Greedy repeats itself",
        "At temperature 0 the likeliest token is taken, always. Three seeds, one answer.",
        {**_STORY, "temperature": 0, "top_p": 1, "top_k": 0, "seed": [1, 2, 3]}, "dog.png",
    ),
    TourStep(
        "A seed is a fate",
        "At temperature 1 a random number chooses. Other seeds draw other answers; the same seed draws the same again.",
        {**_STORY, "temperature": 1, "top_p": 1, "top_k": 0, "seed": [1, 2, 3]}, "dog.png",
    ),
    TourStep(
        "Temperature 2 wanders",
        "Temperature flattens the candidates before anything else happens: compare the second bar of each with its first.",
        {**_STORY, "temperature": [0.3, 1, 2], "top_p": 1, "top_k": 0, "seed": 1}, "dog.png", cell=2,
    ),
    TourStep(
        "top_k cuts the tail",
        "Only the k likeliest stay, however likely the others are. With 1 this is greedy.",
        {**_STORY, "temperature": 1.5, "top_p": 1, "top_k": [0, 5, 1], "seed": 1}, "dog.png", cell=1,
    ),
    TourStep(
        "top_p cuts by probability",
        "The fewest tokens that make up p stay: many where the model is undecided, one where it is sure.",
        {**_STORY, "temperature": 1.5, "top_p": [1, 0.9, 0.5], "top_k": 0, "seed": 1}, "dog.png", cell=2,
    ),
    TourStep(
        "A fact needs no dice",
        "Where the model is sure, the values hardly matter: look at the entropy strip.",
        {"prompt": "What is 3 + 4?", "temperature": [0, 0.6, 1.2], "top_p": 1, "top_k": 0, "seed": [1, 2], "max_tokens": 24},
        cell=4,
    ),
    TourStep(
        "What if, without asking again",
        "Move the sliders below the tokens: what the record tells of other values needs no new answer.",
        {**_STORY, "temperature": 1, "top_p": 1, "top_k": 0, "seed": 7}, "dog.png", token=3,
    ),
)  # fmt: skip


def why_no_tokens(info: BackendInfo) -> str | None:
    """Why the token view is absent, and what brings it; None where it is there."""
    if "probabilities" in info.capabilities:
        return None
    if "logprobs" in info.capabilities or info.name == "openai":
        return (
            "The model runs on a server behind this page, which does not tell what else each token could have been. "
            "A model that this program runs itself (--model-path, without --remote-url) brings the token view."
        )
    return (
        f"The backend {info.name} samples where it tells no probabilities; sampling on the host brings the token view: "
        "leave on_device_sampling_config out of the configuration."
    )
