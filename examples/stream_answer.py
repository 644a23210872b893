"""Streams an answer word by word, and reports how fast it came.

    python examples/stream_answer.py http://127.0.0.1:7860

Closing the stream early (leave the `with` block) frees the slot of the server within one decode step.
"""

from __future__ import annotations

import argparse
import os
import time

import openai


def main() -> None:
    parser = argparse.ArgumentParser(description="Streams an answer.")
    parser.add_argument("url", help="base URL of the demo")
    parser.add_argument("--question", default="Tell me a story.")
    options = parser.parse_args()

    client = openai.OpenAI(base_url=f"{options.url}/v1", api_key=os.environ.get("OPENAI_API_KEY", "none"))
    started, first_text_s, tokens = time.perf_counter(), 0.0, 0
    with client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": options.question}],
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                first_text_s = first_text_s or time.perf_counter() - started
                print(text, end="", flush=True)
            if chunk.usage:
                tokens = chunk.usage.completion_tokens
    print(f"\n{tokens} tokens; the first text came after {first_text_s:.2f} s.")


if __name__ == "__main__":
    main()
