"""Stochastic gradient descent that leaves alone what the step did not see."""

from __future__ import annotations

from typing import Any

import torch


class RowSGD(torch.optim.SGD):
    """torch.optim.SGD, and the same on the rows alone of a gradient that is sparse (`CosineSoftmax(sample=…)`).

    The other rows' weights and momentum stay as they are: neither decays (torch's own refuses weight decay there, and
    lets all of the momentum fade).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; sparse gradients are used up."""
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
