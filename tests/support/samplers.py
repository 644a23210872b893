"""Samples one token: with the engine's sampler, and with the slow one that it must agree with."""

from __future__ import annotations

import numpy as np
import torch

from mllama_demo.engine.batch_sampler import sample_rows
from mllama_demo.engine.token_sampler import (
    RECORDED_CANDIDATES,
    TokenSampler,
    TokenTrace,
    WholeVocabulary,
    apply_temperature,
    filter_logits,
    pick,
)
from mllama_demo.sampling import SamplingParams


def sample(sampler: TokenSampler, logits: np.ndarray) -> tuple[int, TokenTrace | None]:
    """Samples a token from logits [vocabulary] as a runner does, with a trace if the sampler records one."""
    [sampled] = sample_rows([sampler], torch.from_numpy(logits)[None])
    return sampled


def sample_by_sorting(logits: np.ndarray, params: SamplingParams, random: np.random.Generator) -> TokenTrace:
    """Samples a token from logits [vocabulary] by sorting them all with numpy in float64."""
    filtered = filter_logits(logits, params)
    draw = None if params.greedy else float(random.random())
    rank = 0 if draw is None else pick(filtered.probabilities, draw)
    chosen = int(filtered.order[rank])
    recorded = filtered.order[:RECORDED_CANDIDATES]
    recorded = recorded[np.isfinite(logits[recorded])]
    exact = np.asarray(logits, dtype=np.float64)
    log_masses = None
    if draw is not None:
        scaled = apply_temperature(exact[filtered.order], params.temperature)
        left = (len(scaled), filtered.after_top_k, filtered.kept)
        temperature, top_k, top_p = (_log_sum_exp(scaled[:count]) for count in left)
        log_masses = temperature, top_k, top_p
    return TokenTrace(
        token_ids=tuple(recorded.tolist()),
        logits=tuple(exact[recorded].tolist()),
        log_mass=_log_sum_exp(exact),
        chosen=chosen,
        chosen_logit=float(logits[chosen]),
        draw=draw,
        after_top_k=filtered.after_top_k,
        after_top_p=filtered.kept,
        whole=WholeVocabulary(len(logits), rank, log_masses),
    )


def _log_sum_exp(logits: np.ndarray) -> float:
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()))
