"""Own optimiser with two kinds of weights: AdamW without a schedule (Defazio et al., 2024).

python experiments/run.py optim.target=examples.schedule_free:ScheduleFreeAdamW schedule=constant optim.lr=1e-3

Gradients are taken at y, between the fast weights z and their average x. Evaluation wants x: the loop calls `eval`
before it and `train` after it.
"""

from typing import Any

import torch
from torch.optim import Optimizer


class ScheduleFreeAdamW(Optimizer):
    """z takes AdamW's steps, x = mean of all z so far, and y = (1 - beta) z + beta x is in the parameters."""

    def __init__(self, groups: list[dict[str, Any]], beta: float = 0.9, beta2: float = 0.999) -> None:
        super().__init__(groups, {"beta": beta, "beta2": beta2})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure
        """Take a step; the parameters must hold y."""
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "x": p.clone(), "z": p.clone(), "square": torch.zeros_like(p)}
                state["step"] += 1
                x, z, square = state["x"], state["z"], state["square"]
                square.lerp_(p.grad.square(), 1 - group["beta2"])
                scale = (square / (1 - group["beta2"] ** state["step"])).sqrt() + 1e-8
                z.sub_(group["lr"] * (p.grad / scale + group["weight_decay"] * p))
                x.lerp_(z, 1 / state["step"])
                p.copy_(z.lerp(x, group["beta"]))

    def train(self) -> None:
        """Put y into the parameters."""
        self._swap("y")

    def eval(self) -> None:
        """Put x into the parameters, and keep y aside."""
        self._swap("x")

    @torch.no_grad()
    def _swap(self, wanted: str) -> None:
        for p, state in self.state.items():
            if wanted == "x":
                state["y"] = p.clone()
                p.copy_(state["x"])
            elif "y" in state:
                p.copy_(state.pop("y"))
