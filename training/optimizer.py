"""Muon for the weight matrices of the layers, AdamW for all other parameters, with one learning rate.

Training is several times faster with both than with AdamW alone. Muon: Keller Jordan et al., 2024. The scaling to AdamW's update
size: Liu et al., "Muon is scalable for LLM training", 2025. PyTorch's own Muon computes in bfloat16, which many CPUs do slowly;
this one does so only where the processor has bfloat16 (team.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.team import Team


class Muon(torch.optim.Optimizer):
    """SGD with momentum whose matrix updates are made orthogonal by five Newton-Schulz steps.

    The orthogonalisation is expensive, so each process of the team does it for a part of the matrices.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, team: Team, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._team = team

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            updates = [torch.zeros_like(param) for param in params]
            own: dict[torch.Size, list[int]] = {}
            for index, param in enumerate(params):
                state = self.state[param]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(param)
                state["momentum"].lerp_(param.grad, 1 - group["momentum"])
                if index % self._team.size == self._team.rank:
                    own.setdefault(param.shape, []).append(index)
                    updates[index] = param.grad.lerp(state["momentum"], group["momentum"])
            for indices in own.values():  # matrices of one shape together: fewer calls, which is what takes time on a GPU
                for index, update in zip(
                    indices, _orthogonal(torch.stack([updates[i] for i in indices]), self._team.bfloat16), strict=True
                ):
                    updates[index] = update
            for param, update in zip(params, self._team.add_up(updates), strict=True):
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(update, alpha=-group["lr"] * 0.2 * max(param.shape) ** 0.5)


def _orthogonal(matrices: Tensor, bfloat16: bool) -> Tensor:
    """The nearest orthogonal matrix, nearly, of each of [n, rows, columns]."""
    tall = matrices.shape[1] > matrices.shape[2]
    wide = (matrices.mT if tall else matrices).to(torch.bfloat16 if bfloat16 else torch.float32)
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return (wide.mT if tall else wide).to(matrices.dtype)


# Learning rates of AdamW as shares of Muon's. The patch embedding has its own share: the pixels of a patch are so similar that
# small steps of its weights add up to a large change of its output.
ADAM_SHARE, PATCH_EMBEDDING_SHARE = 0.25, 0.04


class Optimizer:
    """Muon and AdamW as one optimizer.

    Args:
        parts: The modules to train, each with its share of the learning rate.
        layers: The modules whose matrices Muon trains.
        patch_embedding: The module that PATCH_EMBEDDING_SHARE applies to.
        team: The processes that compute together.
    """

    def __init__(
        self,
        parts: Iterable[tuple[nn.Module, float]],
        layers: Iterable[nn.Module],
        patch_embedding: nn.Module,
        lr: float,
        team: Team,
    ) -> None:
        matrices = {id(p) for module in layers for p in module.parameters() if p.ndim == 2}
        delicate = {id(p) for p in patch_embedding.parameters()}
        self.params: list[nn.Parameter] = []
        muon, adam = [], []
        for module, share in parts:
            own = list(module.parameters())
            self.params += own
            muon.append({"params": [p for p in own if id(p) in matrices], "share": share})
            for chosen, part in (
                ([p for p in own if id(p) not in matrices | delicate], ADAM_SHARE),
                ([p for p in own if id(p) in delicate], PATCH_EMBEDDING_SHARE),
            ):
                adam.append({"params": chosen, "share": share * part})
        self._both = (
            Muon([group for group in muon if group["params"]], lr, team),
            torch.optim.AdamW([group for group in adam if group["params"]], betas=(0.9, 0.97), weight_decay=0.0),
        )

    def step(self, lr: float) -> None:
        """Clips the gradients to norm 1, makes one update and clears the gradients."""
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        for optimizer in self._both:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["share"]
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._both]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self._both, states, strict=True):
            optimizer.load_state_dict(state)
