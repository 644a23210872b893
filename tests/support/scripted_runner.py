"""A ModelRunner whose every token is written down beforehand, and a TextStream that spells them out.

Knows the runner's contract and nothing of the scheduler. Watches the slot discipline and keeps each breach in `violations`,
since an exception raised here would look to the scheduler like a failing model.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mllama_demo.engine.base import Event, FinishEvent, GenerationRequest, PrefillEvent, QueueEvent, TokenEvent
from mllama_demo.engine.runner import Sampled
from mllama_demo.engine.token_sampler import NO_TOKEN, TokenTrace
from mllama_demo.sampling import SamplingParams

LETTER = {QueueEvent: "Q", PrefillEvent: "P", TokenEvent: "T", FinishEvent: "F"}

END = "\0"
END_IDS = frozenset({ord(END)})
FILLER = "~"
NOT_FINITE = "\uffff"  # in a script: the step has no token


def trace_of(token_id: int) -> TokenTrace:
    """The record that the runner sends along with a token when the request asks for it."""
    return TokenTrace((token_id,), (0.0,), 0.0, token_id, 0.0, None, 1, 1)


@dataclass(frozen=True)
class Call:
    """One call of the scheduler. slots, requests: those named in it. live: every prefilled, unreleased slot at that moment."""

    method: str
    slots: tuple[int, ...]
    requests: tuple[str, ...]
    live: tuple[int, ...]


@dataclass
class _Sequence:
    """unread: pieces of the prompt that are still to be read."""

    request: GenerationRequest
    unread: int
    tokens: int = 0

    @property
    def length(self) -> int:
        return len(self.request.prompt_ids) + self.tokens


class ScriptedRunner:
    """Token ids are code points: request "a" with the script "hi" + END answers h, i, end of turn. After its script a
    request goes on with FILLER for ever.

    pieces: how many pieces the prompt of a request has, 1 if it is not named. reused: what begin returns for a request. prefer:
    which of the free slots a request gets. fail_begin, fail_prefill: raised when that request
    begins, and when the last piece of its prompt is read. fail_decode: one entry for each decode call from now on, None for a
    good one. on_prefill (for each piece), on_decode, on_release: called inside the call, before it does its work, with the
    request ids in it.
    """

    def __init__(self, slots: int = 2, max_seq_len: int = 64, scripts: Mapping[str, str] | None = None) -> None:
        self.slots = slots
        self.max_seq_len = max_seq_len
        self.scripts = dict(scripts or {})
        self.pieces: dict[str, int] = {}
        self.reused: dict[str, int] = {}
        self.prefer: Callable[[tuple[int, ...], str], int] = lambda free, request_id: min(free)
        self.fail_begin: dict[str, Exception] = {}
        self.fail_prefill: dict[str, Exception] = {}
        self.fail_decode: list[Exception | None] = []
        self.on_prefill: Callable[[str], None] = lambda request_id: None
        self.on_decode: Callable[[tuple[str, ...]], None] = lambda request_ids: None
        self.on_release: Callable[[tuple[str, ...]], None] = lambda request_ids: None
        self.calls: list[Call] = []
        self.violations: list[str] = []
        self._taken: dict[int, _Sequence] = {}
        self._thread: int | None = None

    # --- what the scheduler calls ---

    def choose_slot(self, free: Sequence[int], request: GenerationRequest) -> int:
        return self.prefer(tuple(free), request.id)

    def begin(self, slot: int, request: GenerationRequest) -> int:
        self._called("begin", (slot,), (request.id,))
        if slot not in range(self.slots):
            self._violation(f"slot {slot} for {request.id}, there are {self.slots}")
        if slot in self._taken:
            self._violation(f"slot {slot} for {request.id}, held by {self._taken[slot].request.id}")
        if len(request.prompt_ids) >= self.max_seq_len:
            self._violation(f"a prompt of {len(request.prompt_ids)} tokens for {self.max_seq_len}")
        self._taken[slot] = _Sequence(request, self.pieces.get(request.id, 1))
        if request.id in self.fail_begin:
            raise self.fail_begin.pop(request.id)
        return self.reused.get(request.id, 0)

    def read_piece(self, slot: int) -> Sampled | None:
        sequence = self._taken.get(slot)
        if sequence is None or not sequence.unread:
            self._violation(f"a piece for slot {slot}, which has none to read")
            return None
        self._called("read_piece", (slot,), (sequence.request.id,))
        self.on_prefill(sequence.request.id)
        if sequence.unread == 1 and sequence.request.id in self.fail_prefill:
            raise self.fail_prefill.pop(sequence.request.id)
        sequence.unread -= 1
        return None if sequence.unread else self._next_token(slot)

    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        named = tuple(slots)
        self._called("decode", named, tuple(self._taken[slot].request.id for slot in named if slot in self._taken))
        if not named or list(named) != sorted(set(named)):
            self._violation(f"decode of slots {named}, not some in ascending order")
        for slot in named:
            if slot not in self.live:
                self._violation(f"decode of slot {slot}, live are {self.live}")
            elif self._taken[slot].length >= self.max_seq_len:
                self._violation(f"decode of slot {slot} past {self.max_seq_len} tokens")
        self.on_decode(self.calls[-1].requests)
        if self.fail_decode and (error := self.fail_decode.pop(0)) is not None:
            raise error
        return [self._next_token(slot) for slot in named]

    def release(self, slot: int) -> None:
        self._called("release", (slot,), (self._taken[slot].request.id,) if slot in self._taken else ())
        self.on_release(self.calls[-1].requests)
        if slot not in self._taken:
            self._violation(f"release of slot {slot}, which is free")
        self._taken.pop(slot, None)

    # --- what a test asks ---

    @property
    def live(self) -> tuple[int, ...]:
        """Slots that hold a prefilled sequence."""
        return tuple(sorted(slot for slot, sequence in self._taken.items() if not sequence.unread))

    @property
    def holders(self) -> dict[int, str]:
        """Request id of each slot begun and not yet released, a failed prefill included."""
        return {slot: sequence.request.id for slot, sequence in self._taken.items()}

    def prefilled(self) -> list[str]:
        """Request ids in the order in which they began."""
        return [call.requests[0] for call in self.calls if call.method == "begin"]

    def decoded(self) -> list[tuple[str, ...]]:
        """Request ids of each decode call."""
        return [call.requests for call in self.calls if call.method == "decode"]

    def _next_token(self, slot: int) -> Sampled:
        sequence = self._taken.setdefault(slot, _Sequence(GenerationRequest((1,), id=f"nobody in slot {slot}"), 0))
        script = self.scripts.get(sequence.request.id, "")
        character = script[sequence.tokens] if sequence.tokens < len(script) else FILLER
        sequence.tokens += 1
        if character == NOT_FINITE:
            return Sampled(NO_TOKEN)
        token_id = ord(character)
        return Sampled(token_id, trace_of(token_id) if sequence.request.trace else None)

    def _called(self, method: str, slots: tuple[int, ...], requests: tuple[str, ...]) -> None:
        self._thread = self._thread or threading.get_ident()
        if self._thread != threading.get_ident():
            self._violation(f"{method} from another thread")
        self.calls.append(Call(method, slots, requests, self.live))

    def _violation(self, breach: str) -> None:
        self.violations.append(f"call {len(self.calls)}: {breach}")


class SpelledStream:
    """A TextStream over code points that holds back the last character, or as many as might begin a stop string."""

    def __init__(self, sampling: SamplingParams) -> None:
        self.stopped: str | None = None
        self._stops = sampling.stop
        self._held_back = max([1, *(len(stop) - 1 for stop in sampling.stop)])
        self._text = ""
        self._given = 0

    def push(self, token_id: int) -> str:
        assert self.stopped is None, "pushed after the stop string"
        self._text += chr(token_id)
        hits = [(self._text.index(stop), stop) for stop in self._stops if stop in self._text]
        if hits:
            end, self.stopped = min(hits)
            self._text = self._text[:end]
            return self._give(end)
        return self._give(len(self._text) - self._held_back)

    def finish(self) -> str:
        return self._give(len(self._text))

    def _give(self, end: int) -> str:
        text = self._text[self._given : max(end, self._given)]
        self._given += len(text)
        return text


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def check_legal(request: GenerationRequest, events: list[Event], had_a_slot: bool) -> None:
    """The promises that hold for every request, however it ended or if it is still on its way."""
    kinds = "".join(LETTER[type(event)] for event in events)
    assert re.fullmatch("Q*(PT*)?F?", kinds), f"{request.id}: {kinds}"
    assert ("P" in kinds) == had_a_slot, f"{request.id}: {kinds}"
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    assert [event.index for event in tokens] == list(range(len(tokens)))
    if not request.sampling.ignore_eos:
        assert all(event.text == "" for event in tokens if event.token_id in END_IDS)
    places = [event.position for event in events if isinstance(event, QueueEvent)]
    assert all(place >= 1 for place in places)
    assert all(before != after for before, after in itertools.pairwise(places)), "a position told twice"
    for event in events:
        if isinstance(event, PrefillEvent):
            assert event.prompt_tokens == len(request.prompt_ids)
        if isinstance(event, FinishEvent):
            assert event.prompt_tokens == len(request.prompt_ids)
            assert event.completion_tokens == len(tokens)
            assert bool(event.error) == (event.reason == "error")
            assert (event.timings.ttft_s is None) == (not tokens)
            assert 0 <= event.timings.waited_s <= event.timings.total_s
