# pyright: reportArgumentType=false
"""Logits to sample from, and what a filter left of them."""

from __future__ import annotations

import numpy as np
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mllama_demo.engine.token_sampler import Filtered
from mllama_demo.sampling import SamplingParams

VOCABULARY = 500


def random_logits(seed: int, size: int = VOCABULARY, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=spread, size=size)


def survivors(filtered: Filtered) -> set[int]:
    return set(filtered.order[: filtered.kept].tolist())


def warp(logits: np.ndarray, params: SamplingParams) -> torch.Tensor:
    """[vocabulary] float64 logits after transformers' warpers, chained as `generate` chains them; -inf where cut."""
    ids, scores = torch.empty(1, 0, dtype=torch.long), torch.from_numpy(logits)[None]
    scores = TemperatureLogitsWarper(float(params.temperature))(ids, scores)
    if params.top_k > 0:
        scores = TopKLogitsWarper(params.top_k)(ids, scores)
    if params.top_p < 1.0:
        scores = TopPLogitsWarper(params.top_p)(ids, scores)
    return scores[0]
