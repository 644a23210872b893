"""The command `offline` prints answers to prompts of every language in every encoding of its output."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.paths import ROOT
from tests.support.program import clean_environment


def test_a_japanese_prompt_is_answered_where_the_output_is_cp1252(tmp_path):
    batch = tmp_path / "batch.jsonl"
    batch.write_text(json.dumps({"prompt": "東京の写真ですか?", "max_tokens": 4}) + "\n", encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "mllama_demo", "offline", str(batch), "--device", "cpu"],
        cwd=tmp_path,
        env={**clean_environment(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        timeout=150,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode("cp1252")
    assert rb"\u6771\u4eac" in ended.stdout
    assert b"1 of 1 answered" in ended.stderr
