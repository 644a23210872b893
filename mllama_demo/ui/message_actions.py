"""The buttons under a message that concern its text: copy, and edit for a question. static/messages.js handles the clicks."""

from __future__ import annotations

from html import escape


def answer_actions(text: str) -> str:
    """Returns the HTML of the buttons under an answer. text: what the model wrote."""
    return _actions(_copy_button(text))


def question_actions(text: str, number: int | None) -> str:
    """Returns the HTML of the buttons under a question.

    Args:
        text: what the visitor typed.
        number: the number of the question in the message tree; None while the question cannot be edited.
    """
    edit = "" if number is None else _button("Edit", f'class="edit-question" data-number="{number}"')
    return _actions(_copy_button(text) + edit)


def _copy_button(text: str) -> str:
    return _button("Copy message", f'class="copy-text" data-text="{escape(text)}"') if text else ""


def _button(name: str, attributes: str) -> str:
    return f'<button type="button" {attributes} title="{name}" aria-label="{name}"></button>'


def _actions(buttons: str) -> str:
    return f'<div class="text-actions">{buttons}</div>' if buttons else ""
