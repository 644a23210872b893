"""Which replica answers: the one that has the conversation's image and cache, unless it is clearly busier than another.

Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018), by rendezvous hashing: every web process finds
the same replica for a conversation, without asking anybody. Everything else goes to the less busy one of two (the power of two
choices), as by Ray Serve's own router.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from mllama_demo.engine.base import GenerationRequest

log = logging.getLogger(__name__)
_ANSWER_S = 1.0  # how long a replica may take to say how busy it is


class ConversationRouter(RequestRouter):
    """The router of the deployment. Ray Serve makes one in every process that sends requests."""

    def initialize_state(self, slots: int = 1, **kwargs: Any) -> None:
        """slots: of a replica. The home of a conversation may have so many requests more than another replica."""
        self._slots = slots

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas: Ray takes the least busy one of the first rank that accepts the request."""
        if len(candidate_replicas) < 2:
            return [candidate_replicas] if candidate_replicas else []
        key = _key(pending_request)
        if key is None:
            return [random.sample(candidate_replicas, 2)]
        home = candidate_replicas[home_of(key, [replica.replica_id.unique_id for replica in candidate_replicas])]
        others = [replica for replica in candidate_replicas if replica is not home]
        others = random.sample(others, min(2, len(others)))
        loads = await asyncio.gather(*(_load(replica) for replica in (home, *others)))
        return [[home], others] if is_preferred(loads[0], loads[1:], self._slots) else [others, [home]]


def home_of(key: str, names: Sequence[str]) -> int:
    """The index of the replica that a conversation belongs to. A replica that comes or goes moves only its own conversations."""
    return max(range(len(names)), key=lambda index: hashlib.blake2b(f"{names[index]}:{key}".encode()).digest())


def is_preferred(home: int, others: Sequence[int], slots: int) -> bool:
    """Whether a conversation goes to its home: it never waits there while another replica has a free slot.

    Args:
        home, others: how many requests these replicas have.
        slots: of a replica.
    """
    return home < slots or (slots <= min(others) and home < min(others) + slots)


def _key(pending: PendingRequest | None) -> str | None:
    request = pending.args[0] if pending is not None and pending.args else None
    return request.conversation_id or None if isinstance(request, GenerationRequest) else None


async def _load(replica: RunningReplica) -> int:
    """How many requests a replica has. One that does not say is taken for very busy."""
    try:
        return await asyncio.wait_for(replica.get_queue_len(deadline_s=_ANSWER_S), _ANSWER_S)
    except Exception as error:  # the replica has ended, or is too busy to answer
        log.debug("replica %s does not say how busy it is: %s", replica.replica_id, error)
        return 2**30
