"""Suggests buckets for a Neuron configuration from the lengths of the prompts and answers that a store has.

A prompt is computed at the length of its bucket, and a decode step reads the caches up to the length of its bucket. The suggested
buckets waste the fewest tokens of all choices among common lengths.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from mllama_demo.config.neuron import LONG_CONTEXT, NeuronOptions
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError
from mllama_demo.storage.answer_lengths import AnswerLength, answer_lengths
from mllama_demo.storage.database_url import read_database_url

MOST_BUCKETS = 4
_MOST_AT_LONG_CONTEXT = 3  # the rule of config/neuron.py for several slots at seq_len 16384
_SMALLEST = 128
_FEW = 50  # answers; fewer say little
_PERCENT = (50, 90, 99)


@dataclass(frozen=True)
class BucketPlan:
    """Suggested buckets, and what they are made from.

    Attributes:
        answers: How many stored answers there are.
        prompts: The length that a share of the prompts does not exceed, by the share in percent; 100 is the longest.
        padded: Tokens that a prompt is computed for on average, with the configured and with the suggested buckets.
        beyond: How many prompts are longer than the largest bucket.
        estimated: How many counts are estimates.
    """

    answers: int
    prompts: Mapping[int, int]
    context: tuple[int, ...]
    token: tuple[int, ...]
    padded: tuple[float, float]
    beyond: int
    estimated: int

    def lines(self) -> list[str]:
        """The text for a terminal."""
        shares = ", ".join(f"{share}% up to {length}" for share, length in self.prompts.items() if share < 100)
        lines = [f"The store has {self.answers:,} answers. Prompts: {shares}, the longest {self.prompts[100]} tokens.", ""]
        lines += [
            f"  context_encoding_buckets: {list(self.context)}",
            f"  token_generation_buckets: {list(self.token)}",
            "",
            f"A prompt is then computed for {self.padded[1]:,.0f} tokens on average, and for {self.padded[0]:,.0f} with the "
            "buckets of the configuration.",
        ]
        if self.answers < _FEW:
            lines.append(f"Fewer than {_FEW} answers say little.")
        if self.beyond:
            lines.append(f"{self.beyond:,} prompts are longer than the largest bucket; they would lose their oldest turns.")
        if self.estimated:
            lines.append(f"{self.estimated:,} of the counts are estimates, because a remote server did not report them.")
        lines.append(
            "The counts are those of the models that answered. The embedded checkpoint's tokens are shorter than Llama's."
        )
        return lines

    def as_json(self) -> dict[str, Any]:
        return {
            "answers": self.answers,
            "prompt_percentiles": dict(self.prompts),
            "context_encoding_buckets": list(self.context),
            "token_generation_buckets": list(self.token),
            "padded_tokens": {"configured": self.padded[0], "suggested": self.padded[1]},
            "prompts_beyond": self.beyond,
            "estimated": self.estimated,
        }


def plan_buckets(settings: Settings) -> BucketPlan:
    """Suggests buckets for the configuration. Raises ConfigError when the store is missing, cannot be read or has no answer."""
    url = read_database_url(settings.store_url)
    if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).is_file()):
        raise ConfigError(
            f"There is no store at {url.render_as_string()}; name the folder of the conversations with --data-dir, or a database "
            "with --database-url."
        )
    found = answer_lengths(url)
    if not found:
        raise ConfigError("The store has no answer whose prompt was counted yet; ask some questions first.")
    return suggest(found, settings.neuron)


def suggest(found: Sequence[AnswerLength], o: NeuronOptions) -> BucketPlan:
    """The buckets for these answers that keep the rules of config/neuron.py."""
    prompts = sorted(length.prompt for length in found)
    limit = _MOST_AT_LONG_CONTEXT if o.seq_len == LONG_CONTEXT and o.batch_size > 1 else MOST_BUCKETS
    unit = o.tensor_parallel_size if o.sequence_parallel_enabled else 1
    longest = o.max_context_length
    context = _best(Counter(min(length, longest) for length in prompts), _lengths(longest, unit), limit)
    token = _best(_contexts(found, o.seq_len), _lengths(o.seq_len, 1), limit)
    shares = {share: prompts[min(len(prompts) - 1, len(prompts) * share // 100)] for share in _PERCENT} | {100: prompts[-1]}
    return BucketPlan(
        answers=len(found),
        prompts=shares,
        context=context,
        token=token,
        padded=(_padded(prompts, o.context_encoding_buckets), _padded(prompts, context)),
        beyond=sum(length > longest for length in prompts),
        estimated=sum(length.estimated for length in found),
    )


def with_buckets(o: NeuronOptions, plan: BucketPlan) -> NeuronOptions:
    """The options with the suggested buckets."""
    return replace(o, context_encoding_buckets=plan.context, token_generation_buckets=plan.token)


def _contexts(found: Sequence[AnswerLength], longest: int) -> dict[int, int]:
    """How many decode steps read a context of each length. Steps beyond the longest count as steps of the longest."""
    change = [0] * (longest + 2)  # of the number of answers that have a step at a length, from one length to the next
    beyond = 0
    for length in found:
        end = length.prompt + max(1, length.answer)
        change[min(length.prompt, longest + 1)] += 1
        change[min(end, longest + 1)] -= 1
        beyond += max(0, end - max(length.prompt, longest + 1))
    counts = {at: count for at, count in enumerate(accumulate(change)) if count and at <= longest}
    return {**counts, longest: counts.get(longest, 0) + beyond}


def _lengths(longest: int, unit: int) -> list[int]:
    """128, 192, 256, 384 and so on up to the longest: powers of two, and the lengths half-way between them."""
    found, power = {longest}, _SMALLEST
    while power < longest:
        found |= {length for length in (power, power * 3 // 2) if length < longest and length % unit == 0}
        power *= 2
    return sorted(found)


def _best(lengths: Mapping[int, int], candidates: Sequence[int], most: int) -> tuple[int, ...]:
    """The choice of at most `most` candidates, always with the last one, that pads the lengths least. Ties go to fewer buckets.

    Args:
        lengths: How often each length occurs.
    """
    # NxDI takes the next bucket for a length that equals one, except the largest.
    below = [sum(count for length, count in lengths.items() if length < candidate) for candidate in candidates]
    below[-1] = sum(lengths.values())
    # best[n][i]: the padded tokens of the lengths below candidate i with n buckets, of which i is the largest.
    best: list[dict[int, tuple[int, tuple[int, ...]]]] = [{-1: (0, ())}]
    for _ in range(most):
        best.append(
            {
                i: min(
                    (cost + candidates[i] * (below[i] - (below[j] if j >= 0 else 0)), (*chosen, candidates[i]))
                    for j, (cost, chosen) in best[-1].items()
                    if j < i
                )
                for i in range(len(candidates))
                if any(j < i for j in best[-1])
            }
        )
    last = len(candidates) - 1
    return min((row[last] for row in best[1:] if last in row), key=lambda found: (found[0], len(found[1])))[1]


def _padded(prompts: Sequence[int], buckets: Sequence[int]) -> float:
    def bucket(length: int) -> int:
        return buckets[min(bisect_right(buckets, length), len(buckets) - 1)]

    return sum(bucket(length) for length in prompts) / len(prompts)
