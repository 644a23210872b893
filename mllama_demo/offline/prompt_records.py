"""The record of one prompt of a batch: what was asked, the answer, and whether an earlier record is for the same question."""

from __future__ import annotations

from pathlib import Path

from mllama_demo.offline.results import Key, Record, RecordFormat, Results, wrong_file

# Answers with these reasons are complete. After other reasons, such as a time limit, the question is asked again.
FINISHED = ("end_of_turn", "stop_string", "max_tokens", "context_full")


def key_of(record: Record) -> tuple[int, int]:
    """Round and line number. Raises ValueError and others for what is no record."""
    key = record["round"], record["line"]
    if not all(isinstance(part, int) for part in key):
        raise ValueError
    return key


def failed(record: Record) -> bool:
    return record["error"] is not None or record["finish_reason"] not in FINISHED


FORMAT = RecordFormat(
    begin=b'{"round": ',
    key=key_of,
    failure=lambda record: f"line {record['line']}: {record['error']}" if failed(record) else None,
    tokens=lambda record: record["completion_tokens"] or 0,
    # The format of AWS's tutorial.
    text=lambda record: f"Prompt: {record['prompt_text']!r}, Generated text: {record['answer']!r}",
)


def same_question(record: Record, asked: Record) -> bool:
    """Whether a record of an earlier run is for the same prompt, image, parameters and model as `asked`.

    A seed or model of None in `asked` matches any, and so does a seed that the backend ignored. The digests of the images are
    compared only if `asked` has one, since a URL has none before it is fetched.
    """
    old, parameters = record.get("parameters") or {}, dict(asked["parameters"])
    if parameters["seed"] is None or "seed" in record.get("ignored", ()):
        del parameters["seed"]
    if any(old.get(key) != value for key, value in parameters.items()):
        return False
    old_image, image = record.get("image") or {}, asked["image"] or {}
    if old_image.get("source") != image.get("source") or image.get("digest") not in (None, old_image.get("digest")):
        return False
    if asked["model"] not in (None, record.get("model")):
        return False
    return all(record.get(key) == asked[key] for key in ("prompt", "system_prompt"))


def check_same_batch(path: Path, results: Results, asked: dict[Key, Record]) -> None:
    """Checks that the answers in the file are answers to this batch. Failed records may be for anything.

    Args:
        asked: the empty record of each question.

    Raises:
        ConfigError: the file belongs to another batch, or the batch was changed.
    """
    for key, record in results.records.items():
        empty = asked.get(key)
        if not failed(record) and (empty is None or not same_question(record, empty)):
            line = record["line"]
            raise wrong_file(path, f"its answer to line {line} is not to what line {line} of the batch asks now")
