"""The command `plan --traffic`: how many instances so many visitors need, how long they wait, and what it costs.

The program's own scheduler answers drawn questions over a simulated device, in virtual time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mllama_demo.capacity.simulation import Instance
from mllama_demo.capacity.sizing import (
    MOST_LOAD,
    QUESTIONS,
    Sizing,
    drawn,
    most_questions_per_second,
    size,
    with_waiting_places,
)
from mllama_demo.capacity.traffic import Traffic, parse_traffic
from mllama_demo.checkpoint.bucket_plan import BucketPlan, plan_buckets, suggest
from mllama_demo.config.hub_cache import checkpoint_name
from mllama_demo.config.loader import load_settings
from mllama_demo.config.model_shape import PUBLISHED
from mllama_demo.config.settings import Settings
from mllama_demo.engine.simulated.profile import DeviceProfile, profile_names, read_profile
from mllama_demo.errors import ConfigError
from mllama_demo.storage.answer_lengths import AnswerLength

PEOPLE = (10, 100, 1_000, 10_000, 100_000)


def main(
    options: Sequence[str],
    traffic_text: str,
    profile_name: str | None,
    published: str | None,
    as_json: bool,
    from_store: bool = False,
) -> int:
    """The command `plan --traffic`.

    Args:
        options: those of `serve`; slots, buckets and context length come from them.
        traffic_text: see traffic.parse_traffic.
        profile_name: a device profile; None takes the one of the configured instance and model.
        published: the size of a published model, "11B" or "90B"; None takes the configured one.
        as_json: print JSON instead of a table.
        from_store: suggest buckets for the prompts of the store, instead of for those that are drawn.

    Returns:
        The exit code 0.
    """
    traffic = parse_traffic(traffic_text)
    settings = load_settings(options, shape=PUBLISHED[published] if published else None)
    profile = read_profile(profile_name or _profile_of(settings, published))
    buckets = settings.neuron.context_encoding_buckets if settings.backend == "neuron" else ()
    some = traffic.of(traffic.people or PEOPLE[0])
    instance = Instance(profile, settings.batch_size, settings.seq_len, tuple(buckets))
    if traffic.prompt_tokens >= instance.max_seq_len:
        raise ConfigError(f"--traffic: prompt_tokens must be below seq_len, {instance.max_seq_len}, got {traffic.prompt_tokens}.")
    suggested = _suggested(settings, some, instance, from_store)
    most = most_questions_per_second(some, instance, settings.max_tokens)
    instance = with_waiting_places(instance, some, most)
    sizes = []
    for people in sorted({*PEOPLE, traffic.people} - {0}):
        if sys.stderr.isatty():
            print(f"simulating {people:,} people …", end="\r", file=sys.stderr)
        sizes.append(size(traffic.of(people), instance, settings.max_tokens, most))
    if as_json:
        print(json.dumps(_as_json(traffic, instance, sizes, suggested), indent=2))
        return 0
    print(report(traffic, instance, sizes, most))
    if suggested is not None:
        print(_bucket_line(suggested, "of the store" if from_store else "of this length"))
    return 0


def _bucket_line(suggested: BucketPlan, prompts: str) -> str:
    buckets, (before, after) = ", ".join(map(str, suggested.context)), suggested.padded
    return (
        f"Buckets for prompts {prompts}: {buckets} (context_encoding_buckets); a prompt is then padded to {after:,.0f} tokens on "
        f"average, now to {before:,.0f}."
    )


def _suggested(settings: Settings, traffic: Traffic, instance: Instance, from_store: bool) -> BucketPlan | None:
    """Buckets for the prompts; None where the backend has none."""
    if settings.backend != "neuron":
        if from_store:
            raise ConfigError(f"--from-store suggests buckets for backend neuron, and the configuration has {settings.backend}.")
        return None
    if from_store:
        return plan_buckets(settings)
    arrivals = drawn(traffic, instance, settings.max_tokens)
    return suggest([AnswerLength(one.prompt_tokens, one.answer_tokens, False) for one in arrivals], settings.neuron)


def _profile_of(settings: Settings, published: str | None) -> str:
    """The profile of the configured instance and model."""
    profiles = {name: read_profile(name) for name in profile_names()}
    name = checkpoint_name(settings.model_path)
    if settings.backend == "neuron":
        model = published or next((size for size in PUBLISHED if size in name.upper()), "")
        for known, profile in profiles.items():
            if (profile.instance, profile.model) == (settings.neuron.instance_type, model):
                return known
        what = f"{model or name} on {settings.neuron.instance_type}"
    elif settings.embedded:
        return "cpu-embedded"
    else:
        what = f"backend {settings.backend} with {name}"
    raise ConfigError(f"There is no device profile for {what}; name one with --profile: {', '.join(profiles)}, or a YAML file.")


def report(traffic: Traffic, instance: Instance, sizes: Sequence[Sizing], most: float) -> str:
    """The table for a terminal. Every figure from an estimated profile has a ~."""
    profile = instance.profile
    mark = "~" if profile.estimated else ""
    rows = [("people", "questions/s", "instances", "slots", "load", "wait s", "first token s", "tokens/s", "$/hour", "$/1,000")]
    for one in sizes:
        rows.append(
            (
                f"{one.traffic.people:,}",
                f"{one.traffic.questions_per_second:,.2f}",
                f"{mark}{one.instances:,}",
                f"{mark}{one.instances * instance.slots:,}",
                f"{mark}{one.load:.0%}",
                _pair(one.wait_s, mark),
                _pair(one.first_token_s, mark) + ("!" if _is_late(one) else ""),
                "-" if one.tokens_s is None else f"{mark}{one.tokens_s:.0f}",
                "-" if one.per_hour is None else f"{mark}{one.per_hour:,.2f}",
                "-" if one.per_thousand is None else f"{mark}{one.per_thousand:,.2f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    buckets = f", prompts padded to {', '.join(map(str, instance.buckets))} tokens" if instance.buckets else ""
    lines = [
        f"{profile.name}: {instance.slots} slots of {instance.max_seq_len} tokens{buckets}",
        f"{traffic.questions_per_minute:g} questions a minute of each visitor, {traffic.images:.0%} with an image; prompts of "
        f"{traffic.prompt_tokens} tokens, answers of {traffic.answer_tokens}, on average",
        "",
        *table,
        "",
        "Wait and first token: of half of the questions / of nineteen of twenty. Instances: the fewest with which nineteen of",
        f"twenty first tokens come within {traffic.first_token_s:g} s (first_token_s=) and the load is at most {MOST_LOAD:.0%},",
        f"by {QUESTIONS:,} simulated questions.",
        f"One instance answers at most {mark}{most:.2f} questions a second. With max_waiting {mark}{instance.max_waiting},",
        f"the last that waits gets its place within {traffic.patience_s:g} s (patience_s=).",
    ]
    if any(_is_late(one) for one in sizes):
        lines.append("! Even an idle instance is slower than that.")
    lines.append(f"{'~ Estimates' if mark else 'Times'}: {profile.source}.")
    if profile.dollars_per_hour is not None:
        lines.append(f"~ ${profile.dollars_per_hour:.2f} an hour: {profile.price_source}.")
    return "\n".join(lines)


def _pair(values: tuple[float, float], mark: str) -> str:
    return f"{mark}{values[0]:.1f} / {mark}{values[1]:.1f}"


def _is_late(one: Sizing) -> bool:
    return one.first_token_s[1] > one.traffic.first_token_s


def _as_json(traffic: Traffic, instance: Instance, sizes: Sequence[Sizing], suggested: BucketPlan | None) -> dict[str, Any]:
    profile: DeviceProfile = instance.profile
    return {
        "profile": {"name": profile.name, "estimated": profile.estimated, "source": profile.source},
        "traffic": asdict(traffic),
        "slots": instance.slots,
        "seq_len": instance.max_seq_len,
        "buckets": list(instance.buckets),
        "max_waiting": instance.max_waiting,
        "suggested_buckets": None if suggested is None else suggested.as_json(),
        "sizes": [
            {
                "people": one.traffic.people,
                "instances": one.instances,
                "load": one.load,
                "wait_s": {"p50": one.wait_s[0], "p95": one.wait_s[1]},
                "first_token_s": {"p50": one.first_token_s[0], "p95": one.first_token_s[1]},
                "in_time": not _is_late(one),
                "tokens_per_second": one.tokens_s,
                "dollars_per_hour": one.per_hour,
                "dollars_per_1000_answers": one.per_thousand,
            }
            for one in sizes
        ],
    }
