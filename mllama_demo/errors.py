"""Every way a request can fail, each with a sentence for the user and a status for the API.

Raise one of these and the message is shown as it stands, in the browser and in the API's error object. Anything else that
escapes is a bug.
"""

from __future__ import annotations


class DemoError(Exception):
    """Base of all expected failures. `str(error)` is one or two plain sentences; `status` is the HTTP status."""

    status = 500


class BadRequest(DemoError):
    """The request itself is wrong: the message names the value and what is allowed."""

    status = 400


class ImageError(BadRequest):
    """The bytes or the address given as an image cannot be used."""


class PromptTooLong(BadRequest):
    """The conversation does not fit the context, even with its oldest text turns dropped."""


class NotFound(DemoError):
    """The named thing does not exist, or belongs to somebody else."""

    status = 404


class Conflict(DemoError):
    """What is asked does not fit what is there or under way by now; the message says what to do."""

    status = 409


class BackendBusy(DemoError):
    """The waiting queue is full; trying again later may work."""

    status = 429

    @classmethod
    def behind(cls, waiting: int) -> BackendBusy:
        """For a queue in which so many wait already."""
        questions = "1 question is" if waiting == 1 else f"{waiting} questions are"
        return cls(f"The demo is busy: {questions} waiting already. Please try again in a moment.")


class LimitReached(DemoError):
    """One visitor has asked for more than a visitor may; the message says when it goes on."""

    status = 429


class BackendUnavailable(DemoError):
    """The model is still loading, or it is down; the message says which and why."""

    status = 503

    @classmethod
    def loading(cls, detail: str) -> BackendUnavailable:
        """detail: what is being loaded at this moment."""
        return cls(f"The model is still loading ({detail}). Please try again in a moment.")


class ConfigError(DemoError):
    """The configuration cannot be used: names the key, the value and what is allowed."""


class CheckpointError(DemoError):
    """The model folder is missing, incomplete or of another architecture."""
