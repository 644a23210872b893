"""The questions that an empty chat offers, with their images, which are part of the package."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

EXAMPLES_FOLDER = Path(__file__).resolve().parent / "example_images"


class ExampleQuestion(NamedTuple):
    text: str
    image: str | None = None  # a file name in EXAMPLES_FOLDER


# The first four are the prompts of AWS's tutorial: two with an image and two without.
EXAMPLES = (
    ExampleQuestion("What is in this image? Tell me a story", "dog.png"),
    ExampleQuestion("What is the recipe of mayonnaise in two sentences?"),
    ExampleQuestion("Describe this image", "shapes.png"),
    ExampleQuestion("What is the capital of Italy famous for?"),
    ExampleQuestion("How many apples are there?", "apples.png"),
    ExampleQuestion("What does the text say?", "stop.png"),
    ExampleQuestion("What is on the right?", "beach.png"),
    ExampleQuestion("What is 3 + 4?"),
)
