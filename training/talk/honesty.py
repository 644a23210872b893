"""Answers that admit a limit: unknown pictures, questions that a picture cannot answer, a missing picture, tasks out of scope."""

from __future__ import annotations

import random

from training.scenes import Scene
from training.talk.exchange import Exchange
from training.talk.phrases import listed, seen
from training.talk.questions import any_question, pose

ME = "I am a tiny demo model"

_FOREIGN = (
    "I do not recognize this picture. {me}{colours}.",
    "I do not recognize this image. {me}{colours}.",
    "I do not recognize what this is. {me}{colours}.",
    "I do not recognize anything in this picture. {me}{colours}.",
    "I do not recognize anything here. {me}{colours}.",
    "Sorry, I do not recognize this picture. {me}{colours}.",
    "This is beyond me: I do not recognize it. {me}{colours}.",
    "{me} and do not recognize this picture{colours2}.",
    "{me}, and I do not recognize this image{colours2}.",
)
_FOREIGN_COLOURS = (
    ", at most I can see that it is mostly {}",
    " and can only see that it is mostly {}",
    " and see only that it is mostly {}",
    ", all I can say is that it is mostly {}",
)
_FOREIGN_COLOURS_2 = (
    ". At most I can see that it is mostly {}",
    ". I can only see that it is mostly {}",
    ". All I can say is that it is mostly {}",
)
_LOAD_FOR_PHOTOS = (
    " For photos, load Llama 3.2 11B Vision with --model-path.",
    " Load Llama 3.2 11B Vision with --model-path for this.",
    " Llama 3.2 11B or 90B Vision can, load it with --model-path.",
)
_CANNOT = (
    "I cannot tell this from the image. {me} and see only {seen}.",
    "I cannot tell that from the picture. {me} and can only see {seen}.",
    "The image does not tell me that. {me}, I see {seen}.",
    "I cannot know that from the image. {me} and only see {seen}.",
    "{me} and cannot tell this from the image. I see {seen}.",
    "{me} and cannot tell that from the picture. I can only see {seen}.",
    "Sorry, I cannot tell this from the image. {me}, all I see is {seen}.",
)
_NO_IMAGE = (
    "I do not see an image yet. Please upload one and ask again.",
    "There is no image yet. Please upload one.",
    "I have no image to look at. Please add one first.",
    "Please upload an image first, then I can answer.",
    "I cannot see any image. Please add one and ask again.",
    "No image was given. Please upload one and ask again.",
    "Please give me an image first, I do not see one yet.",
    "I need an image for that. Please upload one.",
)
_BEYOND = (
    "{me} and cannot {do}.",
    "I cannot {do}. {me}.",
    "Sorry, I cannot {do}. {me}.",
    "{me}, so I cannot {do}.",
    "That is beyond me, I cannot {do}. {me}.",
    "{me}. I cannot {do}.",
)
_DO = {
    "anything": ("do this", "do that", "answer this", "help with this", "help you with that"),
    "code": ("write code", "help with code"),
    "medicine": ("give medical advice", "help with health"),
    "law": ("give legal advice", "help with law"),
    "money": ("give advice on money", "help with money"),
    "news": ("know the news", "look that up"),
    "people": ("tell you about people", "answer this about people"),
    "language": ("translate", "help with languages"),
    "maths": ("solve this", "do such maths"),
    "writing": ("write such texts", "write this"),
    "opinion": ("judge this", "give advice on this"),
    "science": ("explain this", "answer such questions"),
    "world": ("answer this", "answer such questions"),
    "action": ("do this", "do such things"),
}
_LOAD = (
    " Load Llama 3.2 11B or 90B Vision with --model-path for this.",
    " For this, load Llama 3.2 11B Vision with --model-path.",
    " Please load Llama 3.2 11B or 90B Vision with --model-path.",
    " Try Llama 3.2 11B Vision, load it with --model-path.",
    " Llama 3.2 90B Vision may help, load it with --model-path.",
)


def foreign(rng: random.Random, scene: Scene, seen_colours: tuple[str, ...], kind: str = "", question: str = "") -> Exchange:
    """Makes a question about a foreign picture, and the answer that the model does not recognize it.

    Args:
        seen_colours: The main colours of the picture, which the answer may name.
        kind: Kind of question; empty for a random one.
        question: The question itself, if it is chosen already.
    """
    question = question or any_question(rng, scene.split, kind)
    return Exchange("foreign", question, _foreign_answer(rng, seen_colours), seen_colours)


def _foreign_answer(rng: random.Random, seen_colours: tuple[str, ...]) -> str:
    shown = listed(seen_colours) if seen_colours else ""
    colours = rng.choice(_FOREIGN_COLOURS).format(shown) if shown else ""
    colours2 = rng.choice(_FOREIGN_COLOURS_2).format(shown) if shown else ""
    answer = rng.choice(_FOREIGN).format(me=ME, colours=colours, colours2=colours2)
    return answer + rng.choice(_LOAD_FOR_PHOTOS) if rng.random() < 0.25 else answer


def cannot(rng: random.Random, scene: Scene) -> Exchange:
    """Makes a question that a picture cannot answer."""
    return Exchange("cannot", pose(rng, "cannot", scene.split), rng.choice(_CANNOT).format(me=ME, seen=seen(scene)))


def no_image(rng: random.Random, split: str) -> Exchange:
    """Makes a question about a picture without a picture; the answer asks for one."""
    return Exchange("no_image", any_question(rng, split), rng.choice(_NO_IMAGE))


def beyond(rng: random.Random, subject: str) -> str:
    """An answer to a task that the model cannot do. subject: a key of _DO."""
    do = rng.choice(_DO[subject if rng.random() < 0.5 else "anything"])
    return rng.choice(_BEYOND).format(me=ME, do=do) + rng.choice(_LOAD)
