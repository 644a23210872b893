"""What one client may use: requests at once, and in a minute or a day questions, tokens and bytes of images.

The limits count for a visitor, and so many times as high for an address: a flood may come without cookies, and many visitors may
share an address. The library `limits` counts, in memory or in a Redis that several processes share.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import (
    Backend,
    BackendInfo,
    BackendStatus,
    Client,
    Event,
    FinishEvent,
    GenerationRequest,
)
from mllama_demo.errors import BackendBusy, BadRequest, ClientBusy, ConfigError, LimitReached
from mllama_demo.runtime.clock import WallClock
from mllama_demo.runtime.words import counted
from mllama_demo.web.memory_storage import MemoryStorage
from mllama_demo.web.token_count import TokenCount

log = logging.getLogger(__name__)

MIB = 2**20
STORAGE_TIMEOUT_S = 1.0
_IMAGES = "images"
_IN_MEMORY = "memory://"  # the value of limits_storage
# Of the keys in Redis. reset() deletes all keys with the first; other programs use the default of the library.
_MINUTE_PREFIX, _DAY_PREFIX = "mllama_demo-minute", "mllama_demo"


@dataclass(frozen=True)
class _Limit:
    """A limit of one kind.

    Attributes:
        item: How much in how long.
        what: The sentence for visitors, with the most that is allowed as {}. {s} is the ending of a noun after it.
        unit: What one unit of a visitor's limit is.
    """

    item: RateLimitItem
    what: str
    unit: int = 1

    def times(self, factor: int) -> _Limit:
        kind: Any = type(self.item)
        return _Limit(kind(self.item.amount * factor, namespace=self.item.namespace), self.what, self.unit)

    def allowed(self, whose: str) -> str:
        """What the owner of a key may use, as a sentence without its full stop."""
        allowed = self.item.amount // self.unit
        subject = "All visitors at your address together" if whose.startswith("address") else "You"
        return f"{subject} may {self.what.format(f'{allowed:,}', s='' if allowed == 1 else 's')}"

    def refusal(self, retry_s: float, whose: str) -> LimitReached:
        sentence = f"{self.allowed(whose)}. Please try again in {_duration(retry_s)}."
        return LimitReached(sentence, max(1, math.ceil(retry_s)), f"client_{self.item.namespace}")


def _duration(seconds: float) -> str:
    seconds = max(1, math.ceil(seconds))
    for size, name in ((3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            return counted(math.ceil(seconds / size), name)
    raise AssertionError(seconds)


@dataclass(frozen=True)
class _Taken:
    """A part of a limit that was counted."""

    limiter: Any
    item: RateLimitItem
    whose: str
    cost: int


class ClientLimits:
    """Counts what clients use.

    Args:
        settings: The options limit_….

    Raises:
        ConfigError: limits_storage cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._factor = settings.limit_address_factor
        self._questions = self._tokens = self._images = None
        if most := settings.limit_questions_per_minute:
            self._questions = _Limit(RateLimitItemPerMinute(most, namespace="questions"), "ask {} question{s} a minute")
        if most := settings.limit_tokens_per_day:
            self._tokens = _Limit(RateLimitItemPerDay(most, namespace="tokens"), "use {} token{s} a day")
        if most := settings.limit_image_mb_per_day:
            item = RateLimitItemPerDay(most * MIB, namespace=_IMAGES)
            self._images = _Limit(item, "send {} MiB of images a day", MIB)
        self._seen: LRUCache[tuple[str, str], bool] = LRUCache(10_000)  # images that were counted, by client and digest
        self._fails = False  # whether the storage did not answer last
        self._minute = MovingWindowRateLimiter(_storage(settings.limits_storage, _MINUTE_PREFIX))
        self._day = FixedWindowRateLimiter(_storage(settings.limits_storage, _DAY_PREFIX))
        # In Redis, the library counts a moving window by the clock of this machine, and a fixed one by that of Redis.
        self._clock = None if settings.limits_storage == _IN_MEMORY else WallClock()

    async def begin(self, request: GenerationRequest) -> Sequence[_Taken]:
        """Counts the questions of a completion and their image.

        Returns:
            What was counted, for take_back.

        Raises:
            LimitReached: A limit is reached. Nothing is counted then.
            BadRequest: The completion has more questions, or a larger image, than any visitor may send.
        """
        image = None if request.image is None else (request.client.visitor or request.client.address, request.image.digest)
        # Every follow-up has the image of its conversation again.
        size = 0 if request.image is None or image in self._seen else len(request.image.data)
        if size and image is not None:
            self._seen[image] = True  # before anything is awaited: another request may bring the image meanwhile
        try:
            return await self._begin(request.client, request.choices, size)
        except (LimitReached, BadRequest, StorageError) as error:
            if size and image is not None:
                self._seen.pop(image, None)
            if not isinstance(error, StorageError):
                raise
            self._failed(error)
            return ()

    async def take_back(self, request: GenerationRequest, taken: Sequence[_Taken]) -> None:
        """Counts nothing for a completion after all, because no part of it was begun. taken: What `begin` returned for it."""
        if request.image is not None and any(one.item.namespace == _IMAGES for one in taken):
            self._seen.pop((request.client.visitor or request.client.address, request.image.digest), None)
        try:
            await self._take_back(taken)
        except StorageError as error:
            self._failed(error)

    async def _take_back(self, taken: Sequence[_Taken]) -> None:
        for one in taken:
            key = one.item.key_for(one.whose)
            if one.limiter is self._minute:
                await _remove_newest(self._minute.storage, key, one.cost)
            else:
                await self._day.storage.incr(key, one.item.get_expiry(), amount=-one.cost)

    async def _begin(self, client: Client, questions: int, size: int) -> Sequence[_Taken]:
        wanted = [(self._minute, self._questions, questions), (self._day, self._tokens, 0), (self._day, self._images, size)]
        if self._clock is not None and self._clock.was_set_back():
            # What was counted would be of the future, and would refuse visitors for as long.
            log.warning("The clock was set back, so the questions of this minute are counted anew.")
            await self._minute.storage.reset()
        for limiter, limit, cost in wanted:
            for whose, one in self._limits_of(client, limit):
                if cost > one.item.amount:
                    raise BadRequest(f"{one.allowed(whose)}, which is less than this request alone needs.")
                is_left = await limiter.test(one.item, whose, cost=max(cost, 1))
                self._answered()
                if not is_left:
                    raise await self._refusal(limiter, one, whose)
        # Requests that came meanwhile have passed the same tests: only the result of a hit is sure.
        taken: list[_Taken] = []
        for limiter, limit, cost in wanted:
            for whose, one in self._limits_of(client, limit) if cost else []:
                hit = await limiter.hit(one.item, whose, cost=cost)
                if hit or limiter is self._day:  # which counts also what it refuses
                    taken.append(_Taken(limiter, one.item, whose, cost))
                if not hit:
                    refusal = await self._refusal(limiter, one, whose)
                    await self._take_back(taken)
                    raise refusal
        return taken

    async def _refusal(self, limiter: Any, limit: _Limit, whose: str) -> LimitReached:
        until = (await limiter.get_window_stats(limit.item, whose)).reset_time
        now = time.monotonic() if self._clock is None else time.time()
        return limit.refusal(min(until - now, limit.item.get_expiry()), whose)

    async def end(self, request: GenerationRequest, tokens: int) -> None:
        """Counts the tokens of a prompt and its answer."""
        try:
            await self._count(self._day, request.client, self._tokens, tokens)
        except StorageError as error:
            self._failed(error)

    def _failed(self, error: StorageError) -> None:
        if not self._fails:
            log.error("The limits of visitors cannot be counted, so that they do not apply: %s", error)
        self._fails = True

    def _answered(self) -> None:
        if self._fails:
            log.warning("The limits of visitors are counted again, and apply.")
        self._fails = False

    async def _count(self, limiter: Any, client: Client, limit: _Limit | None, cost: int) -> None:
        for whose, one in self._limits_of(client, limit):
            await limiter.hit(one.item, whose, cost=cost)
            self._answered()

    def _limits_of(self, client: Client, limit: _Limit | None) -> list[tuple[str, _Limit]]:
        """The limits that apply to a client, each with the key under which it is counted."""
        if limit is None:
            return []
        visitor = [(f"visitor {client.visitor}", limit)] if client.visitor else []
        return visitor + ([(f"address {client.address}", limit.times(self._factor))] if client.address else [])


@dataclass
class _Admission:
    """The one counting of all choices of a completion.

    Attributes:
        choices: How many requests there are.
        coming: How many of them the backend does not have yet. Their places are taken.
        requests: How many of its requests are under way.
        begun: Whether the backend has taken one of them.
        failed: Whether one of them ended with an exception. Before any has begun, that is a refusal of all.
    """

    counting: asyncio.Task[Sequence[_Taken]]
    choices: int
    coming: int
    requests: int = 0
    begun: bool = False
    failed: bool = False


class LimitedBackend:
    """A Backend that refuses requests of a client that has used up its limits.

    No visitor and no address has more than three quarters of the places in slots and queue, so that there is room for others.
    """

    def __init__(self, backend: Backend, limits: ClientLimits) -> None:
        self._backend, self._limits = backend, limits
        self._at_once: Counter[str] = Counter()
        self._counting: set[asyncio.Task[None]] = set()
        self._admissions: dict[str, _Admission] = {}  # of the completions under way

    @property
    def info(self) -> BackendInfo:
        return self._backend.info

    def status(self) -> BackendStatus:
        return self._backend.status()

    def cancel(self, request_id: str) -> None:
        self._backend.cancel(request_id)

    def close(self) -> None:
        self._backend.close()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See Backend.generate.

        Raises:
            ClientBusy: The client has three quarters of all places already.
            BackendBusy: Slots and queue have no place for all choices of the completion.
            LimitReached: The client has used up a limit.
        """
        whose = [name for name in (request.client.address, request.client.visitor) if name]
        completion = request.conversation_id if request.choices > 1 else request.id
        admission = self._admissions.get(completion)
        if admission is None:
            self._check_places(whose, request.choices)
            counting = asyncio.create_task(self._limits.begin(request))
            admission = self._admissions[completion] = _Admission(counting, request.choices, request.choices)
            # A failure that nobody waits for any more is no bug.
            admission.counting.add_done_callback(lambda task: task.cancelled() or task.exception())
        admission.requests += 1
        self._at_once.update(whose)  # before anything is awaited: others may ask meanwhile
        count, counted = TokenCount(), False
        try:
            await asyncio.shield(admission.counting)  # the other choices wait for the same
            admission.coming -= 1  # nothing is awaited until the backend has the request
            async with aclosing(self._backend.generate(request)) as events:
                async for event in events:
                    admission.begun = True
                    count.add(event)
                    if isinstance(event, FinishEvent):
                        counted = True
                        # Whoever has the last event may cancel this generator.
                        await self._count(request, event.prompt_tokens + event.completion_tokens)
                    yield event
        except Exception:
            admission.failed = True
            raise
        finally:
            self._at_once.subtract(whose)
            self._at_once = +self._at_once  # without those that have none
            admission.requests -= 1
            if not admission.requests:
                del self._admissions[completion]
                if admission.failed and not admission.begun and admission.counting.exception() is None:
                    await self._shielded(self._limits.take_back(request, admission.counting.result()))
            if count.total and not counted:  # the client has left
                self._count(request, count.total)

    def _check_places(self, whose: Sequence[str], wanted: int) -> None:
        status = self._backend.status()
        coming = sum(admission.coming for admission in self._admissions.values())
        is_promised = any(admission.coming for admission in self._admissions.values() if admission.choices > 1)
        left = places_of(status) - status.running - status.waiting - coming
        # The backend refuses one request at a time, when the first choices have begun. It knows no choices that are coming.
        if wanted > left and (wanted > 1 or is_promised) and status.state == "ready":
            if wanted == 1:
                raise BackendBusy.behind(status.running + status.waiting + coming - status.slots)
            room = f"places for {counted(left, 'more answer')}" if left > 0 else "no place left"
            raise BackendBusy(
                f"The demo is busy: it has {room}, and this request asks for {wanted} answers. Please try again in a moment."
            )
        # A client that may have all places is refused by the backend, whose words are true of everybody.
        places = client_share(status)
        if places == places_of(status):
            return
        taken = max((self._at_once[name] for name in whose), default=0)
        if taken + wanted > places:
            asked = f"This request asks for {wanted} answers, and " if wanted > 1 else ""
            raise ClientBusy(
                f"{asked}{taken} of your requests are running or waiting already, and others shall have a place too. Please try "
                "again when one of them is answered."
            )

    def _count(self, request: GenerationRequest, tokens: int) -> asyncio.Future[None]:
        return self._shielded(self._limits.end(request, tokens))

    def _shielded(self, counting: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Counts in a task of its own, which a cancelled request does not end."""
        task = asyncio.create_task(counting)
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)
        return asyncio.shield(task)


def places_of(status: BackendStatus) -> int:
    """How many requests may run or wait."""
    return status.slots + status.max_waiting


def client_share(status: BackendStatus) -> int:
    """How many requests one client may have at once: three quarters of all places, but the slots and two more where there are."""
    places = places_of(status)
    return min(places, max(status.slots + 2, places * 3 // 4))


def _storage(address: str, prefix: str) -> Storage:
    """The storage of one kind of window. prefix: of its keys in Redis."""
    if address == _IN_MEMORY:
        return MemoryStorage()
    options: dict[str, Any] = {"implementation": "redispy", "wrap_exceptions": True, "socket_timeout": STORAGE_TIMEOUT_S}
    options["key_prefix"] = prefix
    try:
        return storage_from_string(f"async+{address}", **options)  # type: ignore[return-value]  # async+ gives the kind of limits.aio
    except ConfigurationError as error:
        raise ConfigError("limits_storage is a Redis, which needs a package; install it with: pip install redis.") from error


async def _remove_newest(storage: Any, key: str, amount: int) -> None:
    """Removes the newest entries of a moving window, for which the library (5.8.0) has no function.

    Raises:
        StorageError: The storage does not answer.
    """
    if isinstance(storage, MemoryStorage):
        storage.remove_newest(key, amount)
        return
    bridge = storage.bridge
    try:
        await bridge.get_connection().ltrim(bridge.prefixed_key(key), amount, -1)  # the newest is the first of the list
    except storage.base_exceptions as error:
        raise StorageError(error) from error
