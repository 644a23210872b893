"""Texts of the Explore page: the guided tour, the causes of divergence, and why the token view is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mllama_demo.engine.base import BackendInfo

DIVERGENCE_CAUSES = {
    "forced": "In one of them this token was chosen by hand, so its branch goes another way from here.",
    "random_number": "Both could have drawn either token: the random numbers or the probabilities differed.",
    "filters": "One of them could not have drawn the other's token: a filter had cut it.",
    "greedy": "Greedy takes the likeliest token, whatever the others would have drawn.",
    "unknown": "The record does not tell why.",
}


@dataclass(frozen=True)
class TourStep:
    """One run of the guided tour.

    Attributes:
        embedded_text: what the run shows on the embedded checkpoint; it is not true for other models.
        grid: values for make_grid.
        image: file name of an example image.
        cell, token: indices of the token that the tour opens.
    """

    title: str
    text: str
    embedded_text: str
    grid: dict[str, Any]
    image: str | None = "dog.png"
    cell: int = 0
    token: int = 0


_STORY = {"prompt": "What is in this image? Tell me a story", "temperature": 1, "top_p": 1, "top_k": 0, "max_tokens": 40}
# The values and seeds are chosen for the embedded checkpoint. Tests check embedded_text on it.
TOUR = (
    TourStep(
        "Greedy repeats itself",
        "At temperature 0 the likeliest token is taken, always. Three seeds, one answer.",
        embedded_text="“Once” had 34.43 % and “One” 34.41 %: a hair's breadth, and yet no answer ever begins the other way.",
        grid={**_STORY, "temperature": 0, "seed": [1, 2, 3]},
        token=5,
    ),
    TourStep(
        "A seed is a fate",
        "At temperature 1 a random number chooses, and the seed makes the random numbers. "
        "Another seed tells another story; the same seed tells the same one again.",
        embedded_text="The number fell on “The”, which had 29.9 %: “There once was a dog”. "
        "With seed 3 it fell on “One”: “One morning a dog woke up”.",
        grid={**_STORY, "seed": [1, 2, 3]},
        cell=1,
        token=5,
    ),
    TourStep(
        "Temperature 2 wanders",
        "Temperature reshapes the probabilities before anything is cut or drawn: "
        "below 1 the likely become likelier, above 1 the unlikely get their chance.",
        embedded_text="Temperature 2 made 1 in 100 out of 2 in 10,000 for “am”, and that was enough: "
        "the picture of a dog became one of nothing known.",
        grid={**_STORY, "temperature": [0.3, 1, 2], "seed": 8},
        cell=2,
        token=1,
    ),
    TourStep(
        "Top-k cuts the tail",
        "Only the k likeliest tokens stay, however likely the others are. With k = 1 this is greedy.",
        embedded_text="Of six ways to go on, “found”, with 8 %, was the sixth: top-k 5 cut it. The others moved up, "
        "and the same random number that without it drew “could” now fell on “heard”.",
        grid={**_STORY, "temperature": 2, "top_k": [0, 5, 1], "seed": 10},
        cell=1,
        token=21,
    ),
    TourStep(
        "Top-p cuts what is improbable",
        "The fewest tokens that together make up p stay: many where the model is undecided, one where it is sure.",
        embedded_text="Without top-p, the first answer drew “something” here, a chance of 1 in 800, and lost sight of the dog. "
        "Top-p 0.9 leaves “a” alone.",
        grid={**_STORY, "temperature": 2, "top_p": [1, 0.9, 0.5], "seed": 5},
        cell=1,
        token=9,
    ),
    TourStep(
        "A fact needs no dice",
        "Where the model is sure, the values hardly matter. The strip above the tokens shows how undecided it was at each.",
        embedded_text="“7” has more than 99.9 % at every temperature here. Only how to say it, “is” or “=”, is open.",
        grid={**_STORY, "prompt": "What is 3 + 4?", "temperature": [0, 0.6, 1.2], "seed": [1, 2], "max_tokens": 24},
        image=None,
        cell=4,
        token=6,
    ),
    TourStep(
        "What if, without asking again",
        "Move the sliders below the tokens. "
        "The record of an answer tells what other values would have left of it; nothing is generated.",
        embedded_text="Set top-p to 0.5: two tokens, “can” and “And”, could not have been drawn. At temperature 2 and "
        "top-p 1 all could; this story would have turned another way at its eighth token, “morning”.",
        grid={**_STORY, "seed": 7},
        token=7,
    ),
)


def why_no_token_view(info: BackendInfo) -> str | None:
    """Why the token view is missing, and what enables it. None where the backend returns probabilities or log probabilities."""
    if info.capabilities & {"probabilities", "logprobs"}:
        return None
    if info.name == "openai":
        reason = info.ignored.get("logprobs", "It does not tell what else each token could have been.")
        return (
            f"There is no token view: the model runs on a server behind this page. {reason} A server that sends log "
            "probabilities (top_logprobs), such as vLLM, Ollama or llama-server, brings the token view, and so does a model that "
            "this program runs itself (--model-path, without --remote-url)."
        )
    return (
        f"There is no token view: the backend {info.name} samples where it tells no probabilities. Sampling on the host brings "
        "the token view: leave on_device_sampling_config out of the configuration."
    )
