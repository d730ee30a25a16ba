"""SGD that updates only the rows with a gradient."""

from __future__ import annotations

from typing import Any

import torch


class RowSGD(torch.optim.SGD):
    """torch.optim.SGD that updates only the rows of sparse gradients (`CosineSoftmax(sample=…)`).

    Weights and momentum of other rows are unchanged, without decay. (torch.optim.SGD does not support weight decay
    with sparse gradients, and decays all of the momentum.) Takes the options of torch.optim.SGD; `fused` concerns
    dense gradients.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Perform one step; consumes sparse gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None or not p.grad.is_sparse:
                    continue
                gradient = p.grad.coalesce()
                p.grad = None
                rows, down = gradient.indices()[0], gradient.values()
                w = p[rows]
                down = down.add(w, alpha=group["weight_decay"])
                if group["momentum"]:
                    # From zeros: momentum · 0 + gradient is the gradient, with which torch's own begins.
                    if "momentum_buffer" not in self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                    buffer = self.state[p]["momentum_buffer"]
                    momentum = buffer[rows].mul_(group["momentum"]).add_(down)
                    buffer[rows] = momentum
                    down = down.add_(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
                p[rows] = w.sub_(down, alpha=group["lr"])
        super().step()
        return loss
