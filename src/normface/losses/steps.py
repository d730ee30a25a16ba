"""Steps of a training run: schedules by its progress, and buffers that change once a step.

A step may have several parts (gradient accumulation): the loss is called for each, and moving averages, counts and
drawn classes must change once. `progress` begins a step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ConfigError, InputError


class Stepwise(nn.Module):
    """Base of losses and margins whose buffers change with every training step, or that follow a schedule."""

    _at_start: dict[str, Tensor] | None = None  # buffers at the start of the step; None: each batch is a step
    _seen: list[Tensor]  # values of the step's parts so far

    def begin_step(self, progress: float) -> None:
        """Begin a step at a fraction of the run."""
        self._at_start = {name: t.clone() for name, t in self.once_a_step().items()}
        self._seen = []

    def once_a_step(self) -> dict[str, Tensor]:
        """Return the tensors that change once a step."""
        return dict(self.named_buffers(recurse=False))

    @torch.no_grad()
    def of_step(self, values: Tensor) -> Tensor:
        """Return the values [n] of all parts of this step so far, after setting buffers back to the step's start."""
        if self._at_start is None:
            return values.detach()
        if self._seen:
            for name, t in self.once_a_step().items():
                t.copy_(self._at_start[name])
        self._seen.append(values.detach())
        return torch.cat(self._seen)

    def need_progress(self, what: str) -> None:
        """Raise ConfigError if no step was begun: the schedule would stand still."""
        if self._at_start is None:
            raise ConfigError(
                f"losses.progress(loss, step / total) before each training step with {what}", "no call",
                f"call it in the training loop, or drop {what}",
            )  # fmt: skip

    @property
    def grown(self) -> float | None:
        """Share of the schedule that is done; None without one."""
        return None


def progress(loss: nn.Module, fraction: float) -> None:
    """Begin a training step at a fraction of the run: its number, counted from 1, over the number of steps.

    Call it once before each step, however many parts its batch has: it sets scales and margins that grow, and lets
    moving averages count all parts of a batch as one. A loop that never calls it makes each training batch a step;
    then nothing may be scheduled.

    Raises InputError for a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise InputError("a fraction of the run in [0, 1]", str(fraction), "pass step / total")
    for module in loss.modules():
        if isinstance(module, Stepwise):
            module.begin_step(fraction)


def grown(loss: nn.Module) -> float | None:
    """Share of a loss's schedules that is done, the least of them; None if nothing is scheduled."""
    shares = [module.grown for module in loss.modules() if isinstance(module, Stepwise)]
    return min((share for share in shares if share is not None), default=None)
