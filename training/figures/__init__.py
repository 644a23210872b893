"""Kinds of things that are drawn by code and hold something to read, such as charts. Each module adds one.

The name of the module is the name of the kind ("bar_chart": bar chart). Its FIGURE says how to sample it, how to draw it, what
its patches show, and what people ask about it. Nothing else has to be changed for a new one. It also gets a row in the exam.
"""

from __future__ import annotations

import importlib

from training.figures._figure import Figure, Question
from training.kinds import FIGURES as _KINDS

FIGURES: dict[str, Figure] = {
    kind.name: importlib.import_module(f"training.figures.{kind.name.replace(' ', '_')}").FIGURE for kind in _KINDS
}
# All questions about figures, by the kind of exchange: "bar chart: highest".
QUESTIONS: dict[str, tuple[str, Question]] = {
    f"{kind}: {name}": (kind, question) for kind, figure in FIGURES.items() for name, question in figure.questions.items()
}

__all__ = ["FIGURES", "QUESTIONS", "Figure", "Question"]
