"""A request from its submission to its end: when it got a slot and its tokens, and what that says of waits and of speed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mllama_demo.engine.base import GenerationRequest, Timings
from mllama_demo.engine.wait_estimate import WaitEstimate, Work


@dataclass(eq=False)
class TimedRequest:
    """A request and its times, which are readings of one clock, in seconds.

    Attributes:
        submitted: When the request came.
        admitted: When it got a slot.
        first_token, last_token: When its tokens came.
        tokens: How many came.
    """

    request: GenerationRequest
    submitted: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    tokens: int = 0

    def take_token(self, now: float) -> int:
        """Counts a token. Returns its index."""
        self.last_token = now
        if self.first_token is None:
            self.first_token = now
        self.tokens += 1
        return self.tokens - 1

    def expired(self, now: float, grace_s: float = 0.0) -> bool:
        """Whether the time limit of the request was over grace_s ago."""
        limit = self.request.time_limit_s
        return limit is not None and now - self.submitted >= limit + grace_s

    def waited_s(self, now: float) -> float:
        """Seconds in the queue."""
        return (now if self.admitted is None else self.admitted) - self.submitted

    @property
    def decode_s(self) -> float:
        """Seconds from the first to the last token."""
        return 0.0 if self.first_token is None or self.last_token is None else self.last_token - self.first_token

    def timings(self, now: float) -> Timings:
        ttft_s = None if self.first_token is None else self.first_token - self.submitted
        return Timings(self.waited_s(now), ttft_s, self.decode_s, now - self.submitted)

    def work(self, now: float) -> Work:
        """What is left to do, for the estimates of others' waits."""
        sampling = self.request.sampling
        held_s = 0.0 if self.admitted is None else now - self.admitted
        token_s = self.decode_s / (self.tokens - 1) if self.tokens > 1 else None
        return Work(sampling.max_tokens, sampling.ignore_eos, held_s, self.tokens, token_s)

    def teach(self, estimate: WaitEstimate, tokens: int | None = None) -> None:
        """Tells an estimate how long the answer took, if there is one. tokens: its length, where that is not the count."""
        if self.admitted is not None and self.first_token is not None:
            estimate.learn(max(1, tokens or self.tokens), self.first_token - self.admitted, self.decode_s)
