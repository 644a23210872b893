"""Code that repeats a cell without the Explore page: for curl, for the openai client, and for the offline command."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from mllama_demo.explore.results import Run

DEFAULT_URL = "http://127.0.0.1:7860/v1"
_PLACEHOLDER = "@IMAGE@"
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
    suffix = _SUFFIX[run.image.format]
    known = (suffix, ".jpeg") if suffix == ".jpg" else (suffix, ".tif") if suffix == ".tiff" else (suffix,)
    return name if name.lower().endswith(known) else name + suffix


def snippets(run: Run, index: int, url: str = DEFAULT_URL) -> tuple[Snippet, ...]:
    """The snippets of one cell. They expect the image in the working directory, see image_file. url: of the API, with /v1."""
    return (_curl(run, index, url), _openai(run, index, url), _offline(run, index))


def _values(run: Run, index: int) -> dict[str, Any]:
    values = run.grid.cells()[index]
    found = {"temperature": values.temperature, "top_p": values.top_p, "top_k": values.top_k, "max_tokens": values.max_tokens}
    found["seed"] = values.seed if run.repeatable else None
    found["stop"] = list(values.stop)
    return {name: value for name, value in found.items() if value is not None and value != []}


def _messages(run: Run, image: str | None) -> list[dict[str, Any]]:
    system = [{"role": "system", "content": run.system_prompt}] if run.system_prompt else []
    text = {"type": "text", "text": run.grid.prompt}
    content = run.grid.prompt if image is None else [text, {"type": "image_url", "image_url": {"url": image}}]
    return [*system, {"role": "user", "content": content}]


def _curl(run: Run, index: int, url: str) -> Snippet:
    file = image_file(run)
    image = None if file is None else _PLACEHOLDER
    body = json.dumps({"model": run.model, **_values(run, index), "messages": _messages(run, image)}, indent=2)
    # The shell expands a here-document. Only $IMAGE may be expanded.
    body = re.sub(r"([\\$`])", r"\\\1", body)
    lines = []
    if file is not None and run.image is not None:
        lines.append(f"IMAGE=\"data:{run.image.media_type};base64,$(base64 < {shlex.quote(file)} | tr -d '\\n')\"")
        body = "$IMAGE".join(_around_placeholder(body, _PLACEHOLDER))
    address = shlex.quote(f"{url}/chat/completions")
    lines += [f"curl -s {address} -H 'Content-Type: application/json' -d @- <<JSON", body, "JSON"]
    return Snippet("curl", "\n".join(lines) + "\n", "sh")


def _around_placeholder(text: str, placeholder: str) -> tuple[str, str]:
    """The text before and after the last placeholder. The prompt, which may contain the same text, stands before it."""
    before, _, after = text.rpartition(placeholder)
    return before, after


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
        messages = url_code.join(_around_placeholder(repr(_messages(run, _PLACEHOLDER)), repr(_PLACEHOLDER)))
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
