"""Questions to begin with, one click each. Their images ship with the program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio.components.chatbot import ExampleMessage

EXAMPLES_FOLDER = Path(__file__).resolve().parent / "example_images"


def _example(text: str, image: str | None = None) -> ExampleMessage:
    if image is None:
        return {"text": text, "display_text": text}
    path = str(EXAMPLES_FOLDER / image)
    return {"text": text, "display_text": text, "files": [path], "icon": path}


# The first four are the prompts of AWS's tutorial, two with an image and two without.
EXAMPLES: list[ExampleMessage] = [
    _example("What is in this image? Tell me a story", "dog.png"),
    _example("What is the recipe of mayonnaise in two sentences?"),
    _example("Describe this image", "shapes.png"),
    _example("What is the capital of Italy famous for?"),
    _example("How many apples are there?", "apples.png"),
    _example("What does the text say?", "stop.png"),
    _example("What is on the right?", "beach.png"),
    _example("What is 3 + 4?"),
]
