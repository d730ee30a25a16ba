"""What training changes: the network, the loss with its class weights, the optimizer's momentum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .. import models
from ..losses import LOSSES
from .checkpoint import Checkpoint, load_state
from .config import OptimConfig, TrainConfig


class State:
    """Model, loss and optimizer of a run on one device; `parameters` names everything that is trained."""

    def __init__(self, config: TrainConfig, num_classes: int) -> None:
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config = config
        self.model = models.build(config.model.name, **config.model.options)
        self.loss = LOSSES.build(config.loss.name, num_classes, self.model.dim, **config.loss.options)
        # Convolutions run fastest with channels last, on CPUs as on tensor cores.
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss.to(self.device)
        parts = {"model": self.model, "loss": self.loss}
        self.parameters: dict[str, nn.Parameter] = {
            f"{part}.{name}": parameter
            for part, module in parts.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.optimizer = _sgd(self.parameters, config.optim)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of every group."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint must hold."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"loss.{name}": t for name, t in self.loss.state_dict().items()}
        for name, parameter in self.parameters.items():
            if "momentum_buffer" in self.optimizer.state[parameter]:
                tensors[f"momentum.{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        return tensors

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over what `tensors` gave. Raises ModelError where it does not fit."""
        load_state(self.model, checkpoint.part("model"), f"model {self.config.model.name!r}")
        load_state(self.loss, checkpoint.part("loss"), f"loss {self.config.loss.name!r}")
        for name, buffer in checkpoint.part("momentum").items():
            parameter = self.parameters[name]
            # The strides follow the parameter (channels last), or the next step sums in another order.
            self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)


def _sgd(parameters: Mapping[str, nn.Parameter], config: OptimConfig) -> torch.optim.SGD:
    """The paper's groups: decay on network matrices and, apart, on class weights; none on biases, norms, scale."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = config.weight_decay if name.startswith("model.") else config.class_decay
        groups.setdefault(decay if parameter.ndim > 1 else 0.0, []).append(parameter)
    settings = [{"params": members, "weight_decay": decay} for decay, members in groups.items()]
    return torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
