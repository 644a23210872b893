"""Runs one prompt under a grid of temperatures and seeds, and prints each answer as soon as it is complete.

    python examples/explore_over_http.py http://127.0.0.1:7860

The response is one JSON object a line: `start`, a `cell` for every change of a cell, and `end` with the whole run.
"""

from __future__ import annotations

import argparse
import json
import os

import requests

GRID = {
    "prompt": "Tell me a story.",
    "temperature": [0.2, 0.8, 1.4],
    "seed": [1, 2],
    "max_tokens": 24,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs a grid of sampling values.")
    parser.add_argument("url", help="base URL of the demo")
    options = parser.parse_args()

    headers = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"}
    with requests.post(f"{options.url}/v1/explore", json=GRID, headers=headers, stream=True, timeout=300) as response:
        response.raise_for_status()
        cells, texts = [], []
        for line in response.iter_lines():
            event = json.loads(line)
            if event["event"] == "start":
                cells, texts = event["cells"], [""] * len(event["cells"])
            elif event["event"] == "cell":
                texts[event["cell"]] += event["text"]
                if event["phase"] == "done":
                    cell = cells[event["cell"]]
                    print(f"temperature {cell['temperature']}, seed {cell['seed']}: {texts[event['cell']]}")
            elif event["event"] == "end":
                print(f"{len(event['run']['cells'])} cells by {event['run']['model']}.")


if __name__ == "__main__":
    main()
