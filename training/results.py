"""What can be said of the figures of an evaluation without running one: intervals, and which of two checkpoints is better."""

from __future__ import annotations

import math
from typing import Any

CONFIDENT = "confidently false, of all replies (at most)"  # the row of the table that counts over all rows
MOST_CONFIDENT = 0.08


def wilson(right: int, cases: int) -> tuple[float, float]:
    """The 95 % confidence interval of the share right / cases (Wilson, 1927)."""
    z = 1.96
    share, spread = right / cases, z * z / cases
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / cases + spread / cases / 4) / (1 + spread)
    return middle - half, middle + half


def mean_right(figures: dict[str, Any]) -> float:
    """The share of right answers, as the mean over all rows and columns of the table."""
    shares = [right / cases for title, row in figures.items() if title != CONFIDENT for right, cases in row.values()]
    return sum(shares) / len(shares)


def share_confident(figures: dict[str, Any]) -> float:
    """The share of confidently false replies over all columns."""
    columns = figures[CONFIDENT].values()
    return sum(false for false, _ in columns) / sum(replies for _, replies in columns)


def is_better(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether a checkpoint with the figures `new` may replace the one with the figures `old`, on the same questions."""
    return mean_right(new) > mean_right(old) and share_confident(new) <= share_confident(old) and not worse_rows(new, old)


def worse_rows(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """The rows in which the new checkpoint is clearly worse: the 95 % intervals, over all columns, do not touch."""
    worse = []
    for title in new:
        if title != CONFIDENT and wilson(*_added(new[title]))[1] < wilson(*_added(old[title]))[0]:
            worse.append(title)
    return worse


def _added(row: dict[str, list[int]]) -> tuple[int, int]:
    """Right answers and cases of a row, over all columns."""
    return sum(right for right, _ in row.values()), sum(cases for _, cases in row.values())


def comparison(new: dict[str, Any], old: dict[str, Any]) -> str:
    """The share of right answers of both, row by row, as a Markdown table. Columns are added up."""
    lines = ["| type of question | the present one | the new one |", "|---|---|---|"]
    for title in new:
        (old_right, old_cases), (right, cases) = _added(old[title]), _added(new[title])
        lines.append(f"| {title} | {old_right / old_cases:.2f} | {right / cases:.2f} |")
    return "\n".join(lines)
