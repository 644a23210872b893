"""Repeats an answer with its seed, and prints the candidates that the model had for each token.

    python examples/seeds_and_logprobs.py http://127.0.0.1:7860

The log probabilities are those of the model before temperature, top_p and top_k. A server that samples on a Neuron device
has neither seeds nor log probabilities; /v1/models says so under `capabilities`.
"""

from __future__ import annotations

import argparse
import math
import os

import openai
from openai.types.chat import ChatCompletion


def main() -> None:
    parser = argparse.ArgumentParser(description="Repeats an answer with its seed, and prints log probabilities.")
    parser.add_argument("url", help="base URL of the demo")
    parser.add_argument("--question", default="Tell me a story.")
    options = parser.parse_args()

    client = openai.OpenAI(base_url=f"{options.url}/v1", api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id

    def ask(seed: int | None) -> ChatCompletion:
        return client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": options.question}],
            temperature=1.2,
            max_tokens=12,
            seed=seed,
            logprobs=True,
            top_logprobs=3,
        )

    first = ask(None)
    seed = first.model_dump()["seed"]  # the server draws a seed when the request has none, and returns it
    again = ask(seed)
    same = first.choices[0].message.content == again.choices[0].message.content
    print(first.choices[0].message.content)
    print(f"With seed {seed} again: {'the same answer' if same else 'another answer'}.")
    logprobs = first.choices[0].logprobs
    for token in (logprobs and logprobs.content) or []:
        candidates = ", ".join(f"{one.token!r} {math.exp(one.logprob):.2f}" for one in token.top_logprobs)
        print(f"{token.token!r:14} {math.exp(token.logprob):.2f}   of {candidates}")


if __name__ == "__main__":
    main()
