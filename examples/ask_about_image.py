"""Asks a question about an image with the official openai client.

    python examples/ask_about_image.py http://127.0.0.1:7860 --image photo.png --question "What is in this image?"

The server needs no key unless it was started with `api_keys`; set OPENAI_API_KEY then.
"""

from __future__ import annotations

import argparse
import base64
import os
from pathlib import Path

import openai

DOG = Path(__file__).resolve().parents[1] / "mllama_demo" / "images" / "example_images" / "dog.png"


def main() -> None:
    parser = argparse.ArgumentParser(description="Asks a question about an image.")
    parser.add_argument("url", help="base URL of the demo")
    parser.add_argument("--image", type=Path, default=DOG, help="a PNG file; default: a drawing of a dog")
    parser.add_argument("--question", default="What is in this image?")
    options = parser.parse_args()

    client = openai.OpenAI(base_url=f"{options.url}/v1", api_key=os.environ.get("OPENAI_API_KEY", "none"))
    data = base64.b64encode(options.image.read_bytes()).decode()
    completion = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": options.question},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                ],
            }
        ],
        temperature=0,
    )
    print(completion.choices[0].message.content)


if __name__ == "__main__":
    main()
