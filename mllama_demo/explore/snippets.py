"""Code that repeats a cell without the Explore page: for curl, for the openai client, and for the offline command."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from mllama_demo.explore.results import Run

DEFAULT_URL = "http://127.0.0.1:7860/v1"
_SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tiff"}


@dataclass(frozen=True)
class Snippet:
    """Code to copy. title: the tool that runs it. language: sh or python."""

    title: str
    code: str
    language: str


def image_file(run: Run) -> str | None:
    """The name of the image file in the snippets: the original name without characters that are special in a shell."""
    if run.image is None:
        return None
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", run.image.name).strip("._-") or "image"
    suffix = _SUFFIX.get(run.image.format, f".{run.image.format.lower()}")
    known = (suffix, ".jpeg") if suffix == ".jpg" else (suffix, ".tif") if suffix == ".tiff" else (suffix,)
    return name if name.lower().endswith(known) else name + suffix


def snippets(run: Run, index: int, url: str = DEFAULT_URL) -> tuple[Snippet, ...]:
    """The snippets of one cell. They expect the image in the working directory, see image_file. url: of the API, with /v1."""
    found = (_curl(run, index, url), _openai(run, index, url))
    return found if run.grid.history else (*found, _offline(run, index))  # a file of prompts has no conversations


def _values(run: Run, index: int) -> dict[str, Any]:
    values = run.grid.cells()[index]
    found = {"temperature": values.temperature, "top_p": values.top_p, "top_k": values.top_k, "max_tokens": values.max_tokens}
    found["seed"] = values.seed if run.repeatable else None
    found["stop"] = list(values.stop)
    return {name: value for name, value in found.items() if value is not None and value != []}


def _messages(run: Run, image: str | None) -> list[dict[str, Any]]:
    system = [{"role": "system", "content": run.system_prompt}] if run.system_prompt else []
    in_history = any(turn.image for turn in run.grid.history)
    turns = [*((turn.role, turn.text, turn.image) for turn in run.grid.history), ("user", run.grid.prompt, not in_history)]
    return [*system, *({"role": role, "content": _content(text, image if has else None)} for role, text, has in turns)]


def _content(text: str, image: str | None) -> str | list[dict[str, Any]]:
    return text if image is None else [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image}}]


def _curl(run: Run, index: int, url: str) -> Snippet:
    file = image_file(run)
    placeholder = _placeholder(run)
    image = None if file is None else placeholder
    body = json.dumps({"model": run.model, **_values(run, index), "messages": _messages(run, image)}, indent=2)
    # The shell expands a here-document. Only $IMAGE may be expanded.
    body = re.sub(r"([\\$`])", r"\\\1", body)
    lines = []
    if file is not None and run.image is not None:
        lines.append(f"IMAGE=\"data:{run.image.media_type};base64,$(base64 < {shlex.quote(file)} | tr -d '\\n')\"")
        body = body.replace(placeholder, "$IMAGE")
    address = shlex.quote(f"{url}/chat/completions")
    lines += [f"curl -s {address} -H 'Content-Type: application/json' -d @- <<JSON", body, "JSON"]
    return Snippet("curl", "\n".join(lines) + "\n", "sh")


def _placeholder(run: Run) -> str:
    """Text in the place of the image that no text of the run contains."""
    texts = (run.system_prompt, run.grid.prompt, *run.grid.stop, *(turn.text for turn in run.grid.history))
    placeholder = "@IMAGE@"
    while any(placeholder in text for text in texts):
        placeholder += "@"
    return placeholder


def _openai(run: Run, index: int, url: str) -> Snippet:
    values = _values(run, index)
    top_k = values.pop("top_k")
    file = image_file(run)
    lines = ["from openai import OpenAI", "", f'client = OpenAI(base_url={url!r}, api_key="none")']
    messages = repr(_messages(run, None))
    if file is not None and run.image is not None:
        lines = ["import base64", "from pathlib import Path", "", *lines]
        lines.append(f"image = base64.b64encode(Path({file!r}).read_bytes()).decode()")
        url_code = f'f"data:{run.image.media_type};base64,{{image}}"'
        placeholder = _placeholder(run)
        messages = repr(_messages(run, placeholder)).replace(repr(placeholder), url_code)
    lines += [
        "completion = client.chat.completions.create(",
        f"    model={run.model!r},",
        f"    messages={messages},",
        *(f"    {name}={value!r}," for name, value in values.items()),
        f'    extra_body={{"top_k": {top_k}}},',
        ")",
        "print(completion.choices[0].message.content)",
    ]
    return Snippet("openai client", "\n".join(lines) + "\n", "python")


def _offline(run: Run, index: int) -> Snippet:
    file = image_file(run)
    line = {"prompt": run.grid.prompt, **({"image": file} if file else {}), **_values(run, index)}
    system = f" --system-prompt {shlex.quote(run.system_prompt)}" if run.system_prompt else ""
    code = f"cat > cell.jsonl <<'JSONL'\n{json.dumps(line)}\nJSONL\npython -m mllama_demo offline cell.jsonl{system}\n"
    return Snippet("offline", code, "sh")
