"""The expected failures. Each has a message for the user and an HTTP status.

The browser and the API's error object show the message unchanged. Any other exception that leaves a handler is a bug.
"""

from __future__ import annotations


class Failure(str):
    """Why something failed, as a sentence for visitors, which also carries the cause for the operator.

    A Failure is passed on like any other message. Only the log, the command line and the operator's page read its cause.

    Attributes:
        cause: The failure with all that visitors must not see: addresses, paths, keys of the configuration and exceptions.
    """

    cause: str

    def __new__(cls, sentence: str, cause: str) -> Failure:
        failure = super().__new__(cls, sentence)
        failure.cause = cause
        return failure

    def __getnewargs__(self) -> tuple[str, str]:
        """The arguments of a copy: `dataclasses.asdict` and pickle copy a Failure as a Failure."""
        return str(self), self.cause


def cause_of(message: object) -> str:
    """The cause of a failure, for the operator.

    Args:
        message: A message, or a DemoError. One that carries no cause is its own cause.
    """
    if isinstance(message, DemoError) and message.args:
        message = message.args[0]
    return message.cause if isinstance(message, Failure) else str(message)


class DemoError(Exception):
    """Base class. `str(error)` is one or two sentences for the user; `status` is the HTTP status.

    The sentence may be a Failure: then `cause_of(error)` is what the operator reads.

    Attributes:
        reason: The class of the failure in the metrics, one of runtime.failures.REASONS.
        limit: The limit that refused the request, one of runtime.failures.LIMITS; empty for none.
    """

    status = 500
    reason = "internal"
    limit = ""


class BadRequest(DemoError):
    """The request is invalid. The message has the value and what is allowed."""

    status = 400
    reason = "bad_request"


class ImageError(BadRequest):
    """The bytes or the URL of an image cannot be used."""

    reason = "image"


class PromptTooLong(BadRequest):
    """The conversation exceeds the context, even without its oldest text turns."""

    reason = "prompt_too_long"


class NotFound(DemoError):
    """The named object does not exist, or belongs to another visitor."""

    status = 404
    reason = "not_found"


class Conflict(DemoError):
    """The request conflicts with the current state, such as an answer that is running. The message says what to do."""

    status = 409
    reason = "conflict"


class BackendBusy(DemoError):
    """The queue is full. The same request may succeed later."""

    status = 429
    reason = "busy"
    limit = "queue"

    @classmethod
    def behind(cls, waiting: int) -> BackendBusy:
        """Returns the error for a queue with `waiting` requests."""
        questions = "1 question is" if waiting == 1 else f"{waiting} questions are"
        return cls(f"The demo is busy: {questions} waiting already. Please try again in a moment.")


class ClientBusy(BackendBusy):
    """One client has as many requests at once as it may. The same request may succeed later."""

    limit = "client_places"


class LimitReached(DemoError):
    """A visitor has used up a limit. The message says when the visitor may continue.

    Attributes:
        retry_s: Seconds until then.
    """

    status = 429
    reason = "limit"

    def __init__(self, message: str, retry_s: float, limit: str) -> None:
        super().__init__(message)
        self.retry_s, self.limit = retry_s, limit


class BackendUnavailable(DemoError):
    """The model is loading or down. The message says which and why."""

    status = 503
    reason = "unavailable"

    @classmethod
    def loading(cls, detail: str) -> BackendUnavailable:
        """Returns the error for a model that is loading. `detail`: what is being loaded, or a whole sentence."""
        return (
            cls(detail) if detail.endswith(".") else cls(f"The model is still loading ({detail}). Please try again in a moment.")
        )


class DatabaseUnavailable(BackendUnavailable):
    """The database of conversations does not answer, or refuses a change."""

    reason = "database"


class ServerBusy(DemoError):
    """The requests of now take all the memory or all the workers that they may take. The same request may succeed later."""

    status = 503
    reason = "server_busy"

    def __init__(self, sentence: str, limit: str) -> None:
        super().__init__(sentence)
        self.limit = limit


class ConfigError(DemoError):
    """The configuration is invalid. The message has the key, the value and what is allowed."""


class CheckpointError(DemoError):
    """The model folder is missing, is incomplete or has another architecture."""


class DownloadError(DemoError):
    """The weights cannot be downloaded. The message says why and what to do."""
