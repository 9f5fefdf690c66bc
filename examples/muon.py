"""Own optimiser of two: Muon for the matrices, AdamW for the rest, as one object.

python experiments/run.py optim.target=examples.muon:MuonWithAdamW optim.lr=3e-4

One from a library needs no file: optim.target=torch.optim:SGD 'optim.options={momentum: 0.9}' optim.lr=1e-2
"""

from typing import Any

from torch import Tensor
from torch.optim import AdamW, Muon


class MuonWithAdamW:
    """Optimiser whose groups are each split into matrices and the rest."""

    def __init__(self, groups: list[dict[str, Any]], momentum: float = 0.95) -> None:
        def part(suffix: str, is_matrix: bool) -> list[dict[str, Any]]:
            parts = [[p for p in group["params"] if (p.ndim == 2) == is_matrix] for group in groups]
            pairs = zip(groups, parts, strict=True)
            return [group | {"name": group["name"] + suffix, "params": params} for group, params in pairs if params]

        # Its steps are scaled to the size of AdamW's, so that one learning rate suits both.
        muon = Muon(part("_muon", True), momentum=momentum, adjust_lr_fn="match_rms_adamw")
        self.optimizers = {"muon": muon, "adamw": AdamW(part("", False))}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """List the groups of both; the loop sets their learning rates and clips over all of them."""
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    def step(self) -> None:
        """Take a step with both."""
        for optimizer in self.optimizers.values():
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Collect the state of both."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Restore the state of both."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
