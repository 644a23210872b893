"""The page /laptop-model: how to put a real vision model behind this page, for those who met the embedded checkpoint first.

The page is the short form of docs/laptop-model.md, which an installed package does not have. It loads nothing from other hosts.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI
from starlette.responses import Response

from mllama_demo.config.branding import Brand
from mllama_demo.web.requests import html_page
from mllama_demo.web.templating import render

PATH = "/laptop-model"


@dataclass(frozen=True)
class Program:
    """A program that runs a vision model on a laptop.

    Attributes:
        address: Where to get the program.
        before: What to do before the commands.
        commands: The model, and this page in front of the program.
        after: What to expect.
    """

    name: str
    address: str
    before: str
    commands: tuple[str, ...]
    after: str


PROGRAMS = (
    Program(
        "Ollama",
        "https://ollama.com/download",
        "Llama 3.2 Vision with 11 billion parameters: a download of about 8 GB, and 12 GB of memory.",
        ("ollama pull llama3.2-vision", 'make run ARGS="--config configs/ollama.yaml"'),
        "With less memory: ollama pull gemma3:4b, and the option --remote-model gemma3:4b.",
    ),
    Program(
        "LM Studio",
        "https://lmstudio.ai",
        "Download a model with the mark “Vision” in LM Studio.",
        ("lms server start", 'make run ARGS="--config configs/lm-studio.yaml"'),
        "The page takes a loaded vision model, else the first one that is downloaded.",
    ),
    Program(
        "llama-server",
        "https://github.com/ggml-org/llama.cpp",
        "Gemma 3 with 4 billion parameters: a download of about 3 GB, and 6 GB of memory.",
        ("llama-server -hf ggml-org/gemma-3-4b-it-GGUF --port 8080", 'make run ARGS="--config configs/llama-server.yaml"'),
        "The second command needs a terminal of its own. llama-server downloads the model at its first start.",
    ),
)


def add_guide(app: FastAPI, brand: Brand) -> None:
    """Adds GET /laptop-model."""

    @app.api_route(PATH, methods=["GET", "HEAD"], include_in_schema=False)
    async def laptop_model() -> Response:
        return html_page(render("guide/page", brand, programs=PROGRAMS))
