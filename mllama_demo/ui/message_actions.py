"""The buttons under a message that concern its text: copy, and edit for a question. static/messages.js handles the clicks."""

from __future__ import annotations

from html import escape


def answer_actions(text: str) -> str:
    """Returns the HTML of the buttons under an answer. text: what the model wrote."""
    return _actions(copy_button(text, "Copy message") if text else "")


def question_actions(text: str, number: int | None, locked: bool) -> str:
    """Returns the HTML of the buttons under a question.

    Args:
        text: what the visitor typed.
        number: the number of the question in the message tree; None for a question that is not stored yet.
        locked: the question cannot be edited now. An editor that is open already finds its question by the number.
    """
    copy = copy_button(text, "Copy message") if text else ""
    if number is None:
        return _actions(copy)
    edit = "" if locked else _icon_button("Edit", f'class="icon-action edit-question" data-number="{number}"')
    return f'<div class="text-actions" data-question="{number}">{copy}{edit}</div>'


def copy_button(text: str, name: str, label: str = "") -> str:
    """Returns the HTML of a button that copies a text.

    Args:
        name: the name of the button for screen readers and in the tooltip.
        label: the words on the button; without a label the button has an icon.
    """
    if label:
        return f'<button type="button" class="copy-text" data-text="{escape(text)}">{escape(label)}</button>'
    return _icon_button(name, f'class="icon-action copy-text" data-text="{escape(text)}"')


def _icon_button(name: str, attributes: str) -> str:
    return f'<button type="button" {attributes} title="{escape(name)}" aria-label="{escape(name)}"></button>'


def _actions(buttons: str) -> str:
    return f'<div class="text-actions">{buttons}</div>' if buttons else ""
