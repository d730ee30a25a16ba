"""State of training: the network and its average, the loss with its class weights, the optimizer's momentum."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .. import dist, models
from ..checkpoint import Checkpoint, RowShard, check_fit, load_state, write
from ..cpu import processor
from ..errors import ConfigError, ModelError, TrainingError
from ..losses import LOSSES
from ..models import Model
from ..ops import l2_normalize
from ..types import ClassShard
from .config import OptimConfig, TrainConfig
from .data_parallel import average_buffers, data_parallel, synchronize_batch_norm
from .recompute import recompute
from .sgd import RowSGD

# Of an optimizer's state → in checkpoints.
SLOTS = {"momentum_buffer": "momentum", "exp_avg": "first", "exp_avg_sq": "second", "step": "count"}
CLASS_ROWS = "weight", "centers", "memory"  # tensors of losses with rows for each class


class State:
    """Model, loss and optimizer of a run on one device.

    Attributes:
        parameters: everything that is trained, by name.
        net: the model as it is trained: compiled, and over ranks.
        half: compute the network and the loss under autocast in bfloat16. Losses cast back what must not be rounded.
        beside: modules that are trained with the network and are no part of it, by name (`add`).
        compiled, graphs: whether the network is compiled, and runs as CUDA graphs.
    """

    def __init__(self, config: TrainConfig, num_classes: int) -> None:
        torch.manual_seed(config.seed)
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", torch.cuda.current_device())
            torch.backends.cudnn.benchmark = True  # all batches have one shape
        self.config = config
        self.model = models.build(config.model.name, **config.model.options)
        shares = {"shard": dist.class_shard(num_classes)} if dist.world() > 1 else {}
        if shares and "shard" not in signature(LOSSES[config.loss.name]).parameters:
            raise ConfigError("a loss whose classes can be sharded", config.loss.name, "train it on one rank")
        self.loss = LOSSES.build(config.loss.name, num_classes, self.model.dim, **config.loss.options, **shares)
        self.half = _bf16(config.precision, self.device)
        last = self.half or self.device.type == "cuda" or _wide(self.model)
        self.layout = torch.channels_last if last else torch.contiguous_format
        self.model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.loss.to(self.device)
        self.parallel = None
        if dist.world() > 1:
            if config.sync_batch_norm:
                synchronize_batch_norm(self.model)
            self.parallel = data_parallel(self.model, compress=config.optim.compress)
        self.net: nn.Module = self.parallel or self.model
        self.graphs = config.compile == "reduce-overhead"
        self.compiled = _compiles(config, self.device)
        if self.compiled:
            # Left to itself it lays out all convolutions channels last on CPUs, in float32 too.
            options: dict[str, Any] = {"layout_optimization": last}
            if self.graphs:
                options["triton.cudagraphs"] = True
            self.net = cast(nn.Module, torch.compile(self.net, dynamic=False, options=options))
        self.beside: dict[str, nn.Module] = {}
        self.average: AveragedModel | None = None
        if config.optim.average:
            average = get_ema_multi_avg_fn(config.optim.average)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        if config.recompute:
            recompute(self.model)
        parts = {"model": self.model, "loss": self.loss}
        self.parameters: dict[str, nn.Parameter] = {
            f"{part}.{name}": parameter
            for part, module in parts.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        optim = config.optim
        own = {
            f"model.{name}": {"rate_factor": rate, "weight_decay": optim.weight_decay * decay}
            for name, (rate, decay) in self.model.multipliers().items()
        }
        own |= {
            ".".join(filter(None, ("loss", part, name))): options
            for part, module in self.loss.named_modules()
            for name, options in getattr(module, "group_options", {}).items()
        }
        self.optimizer = _optimizer(self.parameters, optim, own, fused=self.device.type == "cuda")
        if optim.algorithm == "adamw" and any(getattr(part, "sample", 1) < 1 for part in self.loss.modules()):
            raise ConfigError("optim.algorithm=sgd with a loss that samples classes", "adamw", "change one of them")
        self.frozen = [p for name, p in self.parameters.items() if name.startswith(config.start.freeze or "\0")]
        unknown = [f for f in config.start.freeze if not any(name.startswith(f) for name in self.parameters)]
        if unknown:
            raise ConfigError(
                "start.freeze with prefixes of parameter names", ", ".join(unknown),
                f"the names are {', '.join(list(self.parameters)[:3])}, …",
            )  # fmt: skip

    def add(self, name: str, module: nn.Module) -> None:
        """Train another module, which is in checkpoints as `name.…` and no part of the network, without decay."""
        self.beside[name] = module
        added = {f"{name}.{key}": parameter for key, parameter in module.named_parameters()}
        if added:
            self.parameters |= added
            self.optimizer.add_param_group({"params": [*added.values()], "weight_decay": 0.0, "rate_factor": 1.0})

    def set_rate(self, rate: float, before: float | None = None) -> None:
        """Set the learning rate, times the factor of each group; `before` is that of the previous step.

        Caffe's momentum contains gradients already multiplied by the rate of their step; torch's contains plain ones
        and multiplies them by the current rate. Scaling it by the ratio of the rates converts one to the other.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        if self.config.optim.convention == "caffe" and before is not None and before != rate:
            for held in self.optimizer.state.values():
                if held.get("momentum_buffer") is not None:
                    held["momentum_buffer"].mul_(before / rate)

    @property
    def best(self) -> Model:
        """Return the network to use: the averaged one if there is one."""
        return cast(Model, self.average.module) if self.average else self.model

    def step(self, progress: float) -> None:
        """Perform an optimizer step with clipped gradients, without frozen parameters; then update the average."""
        if progress < self.config.start.freeze_until:
            for p in self.frozen:
                p.grad = None
        if self.config.optim.clip_network:
            self._clip(self.config.optim.clip_network, "model.")
        if self.config.optim.clip:
            self._clip(self.config.optim.clip)
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.model)

    def not_yet_summed(self) -> AbstractContextManager[None]:
        """Delay summing gradients over ranks to a later part of the batch."""
        return self.parallel.no_sync() if self.parallel else nullcontext()

    def agree_on_buffers(self) -> None:
        """Average batch norm's running statistics over ranks, so that all have one network; call it on every rank."""
        if self.parallel and not self.config.sync_batch_norm:
            average_buffers([self.model, *([self.average] if self.average else [])])

    def _clip(self, limit: float, prefix: str = "") -> None:
        """Clip the norm of the gradient of parameters with a prefix, including the classes of all ranks, to `limit`."""
        sharded = {name for name, t in self.tensors().items() if isinstance(t, RowShard)}
        chosen = {name: p for name, p in self.parameters.items() if name.startswith(prefix)}
        found = {name: p.grad for name, p in chosen.items() if p.grad is not None}
        whole = _sum_of_squares([gradient for name, gradient in found.items() if name not in sharded], self.device)
        shared = _sum_of_squares([gradient for name, gradient in found.items() if name in sharded], self.device)
        length = (whole + (dist.total(shared) if sharded else shared)).sqrt()
        factor = (limit / length).clamp(max=1)
        for gradient in found.values():
            gradient.mul_(factor)

    def tensors(self) -> dict[str, Tensor | RowShard]:
        """Return all tensors of a checkpoint: "model.…", "loss.…", and the optimizer's, such as "momentum.…"."""
        found: dict[str, Tensor | RowShard] = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        found |= {f"loss.{name}": t for name, t in self.loss.state_dict().items()}
        for part, module in self.beside.items():
            found |= {f"{part}.{name}": t for name, t in module.state_dict().items()}
        if self.average:
            found |= {f"average.{name}": t for name, t in self.average.module.state_dict().items()}
            found["averaged"] = self.average.n_averaged
        for (name, parameter), (slot, prefix) in product(self.parameters.items(), SLOTS.items()):
            if slot in self.optimizer.state[parameter]:
                found[f"{prefix}.{name}"] = self.optimizer.state[parameter][slot]
        for part, module in self.loss.named_modules():
            shard: ClassShard | None = getattr(module, "shard", None)
            if shard is None:
                continue
            for kind, rows_of in product(("loss", *(f"{prefix}.loss" for prefix in SLOTS.values())), CLASS_ROWS):
                name = ".".join(filter(None, (kind, part, rows_of)))
                rows = found.get(name)
                if isinstance(rows, Tensor) and rows.ndim:
                    each = len(rows) // (shard.stop - shard.start)
                    found[name] = RowShard(rows, shard.start * each, shard.total * each)
        return found

    def save(self, run: Path, step: int, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint. Raises TrainingError if a weight is not finite."""
        self.agree_on_buffers()
        tensors = self.tensors()
        with dist.together():
            for name, t in tensors.items():
                if not (t.tensor if isinstance(t, RowShard) else t).isfinite().all():
                    raise TrainingError(
                        "finite weights", f"NaN or infinity in {name} after step {step}",
                        f"lower optim.lr (now {self.config.optim.lr}); the previous checkpoint is intact",
                    )  # fmt: skip
        keep = self.config.keep
        write(run, tensors, config=self.config.model_dump(mode="json"), step=step, facts=facts, keep=keep)

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Load the network of another run. Raises ModelError if it does not fit."""
        load_state(self.model, checkpoint.part("model"), f"model {self.config.model.name!r}")

    @torch.no_grad()
    def start_agents(self, checkpoint: Checkpoint, theirs: Sequence[str], people: Sequence[str]) -> int:
        """Copy another run's class weights into every loss that has some, by the people's names.

        Args:
            theirs, people: names in the order of the classes, there and here.

        Returns the number of people found. Raises ModelError if the weights do not fit.
        """
        names = [name for name in checkpoint.layout if name.startswith("loss.") and name.endswith("weight")]
        ours = {n: t for n, t in self.tensors().items() if n.startswith("loss.") and n.endswith("weight")}
        given = checkpoint.layout[names[0]].shape if names else (0, 0)
        each = given[0] // max(len(theirs), 1)
        if not each or not ours or any(t.shape != (len(people) * each, given[1]) for t in ours.values()):
            raise ModelError(
                f"class weights {[list(t.shape) for t in ours.values()]} of {len(people)} people",
                f"{list(given)} of {len(theirs)}", "set start.agents=false for random ones",
            )  # fmt: skip
        weights = checkpoint.part("loss")[names[0].removeprefix("loss.")].view(len(theirs), each, -1)
        place = {name: row for row, name in enumerate(theirs)}
        common = [(new, place[name]) for new, name in enumerate(people) if name in place]
        # New people are drawn anew: under one seed this run's rows are those that the other one began with.
        generator = torch.Generator().manual_seed(self.config.seed + 2**31)
        rows = l2_normalize(torch.randn(len(people), *weights.shape[1:], generator=generator))
        for new, old in common:
            rows[new] = weights[old]
        for t in ours.values():
            held, start = (t.tensor, t.start) if isinstance(t, RowShard) else (t, 0)
            held.copy_(rows.flatten(0, 1)[start : start + len(held)])
        return len(common)

    def load(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint of any number of ranks. Raises ModelError if it does not fit."""
        for (name, parameter), (slot, prefix) in product(self.parameters.items(), SLOTS.items()):
            if f"{prefix}.{name}" in checkpoint.layout:
                # The strides follow the parameter (channels last), or the next step sums in another order.
                empty = torch.zeros((), device=self.device) if slot == "step" else torch.empty_like(parameter)
                self.optimizer.state[parameter][slot] = empty
        tensors = self.tensors()
        for part, what in (("model", f"model {self.config.model.name!r}"), ("loss", f"loss {self.config.loss.name!r}")):
            own = {name: t.shape for name, t in tensors.items() if name.startswith(f"{part}.")}
            check_fit(what, own, {n: t.shape for n, t in checkpoint.layout.items() if n.startswith(f"{part}.")})
        checkpoint.fill(tensors)


def _bf16(precision: str, device: torch.device) -> bool:
    """Return True to compute in bfloat16: as configured, or with "auto" if the hardware supports it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return processor().has_bf16


def _wide(model: nn.Module) -> bool:
    """Return True if float32 convolutions on CPUs may use the channels-last layout: `smallresnet` is 20 % faster.

    False if some are narrow (except for the first one's 1 or 3 input channels): with channels that do not fill the
    processor's vectors, the backward pass of torch 2.13 writes out of bounds in that layout, and hangs or crashes.
    """
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    counts = [part.out_channels for part in convolutions] + [part.in_channels for part in convolutions[1:]]
    return all(part.groups == 1 for part in convolutions) and all(count % 16 == 0 for count in counts)


def _compiles(config: TrainConfig, device: torch.device) -> bool:
    """Return True to compile the network: as configured, or with "auto" on GPUs that Triton supports.

    On CPUs it gains on some networks and costs on others (docs/training.md). Raises ConfigError if it cannot be done.
    """
    gpu = device.type == "cuda"
    if config.recompute and config.compile not in ("auto", False):
        raise ConfigError("compile=false with recompute=true", f"compile={config.compile}", "change one of them")
    if config.compile == "auto":
        return (
            gpu
            and not config.recompute
            and find_spec("triton") is not None
            and torch.cuda.get_device_capability(device) >= (7, 0)
        )
    if config.compile == "reduce-overhead" and (not gpu or dist.world() > 1 or config.optim.accumulate > 1):
        raise ConfigError(
            "one GPU and optim.accumulate=1 with compile=reduce-overhead",
            f"{dist.world()} ranks on {device.type} and optim.accumulate={config.optim.accumulate}",
            "set compile=auto",
        )  # fmt: skip
    compiler = os.environ.get("CXX", "g++")
    if config.compile and not gpu and shutil.which(compiler) is None:  # a GPU needs none
        raise ConfigError("a C++ compiler for compile=true", f"no {compiler}", "install it, or set compile=false")
    return bool(config.compile)


def _sum_of_squares(gradients: Sequence[Tensor], device: torch.device) -> Tensor:
    """Sum over all numbers of some gradients, in float32; a scalar."""
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    if not dense:
        return torch.zeros((), device=device)
    return nn.utils.get_total_norm([each.float() for each in dense]).square()


def _optimizer(
    parameters: Mapping[str, nn.Parameter], config: OptimConfig, own: Mapping[str, Mapping[str, float]], *, fused: bool
) -> torch.optim.Optimizer:
    """Build parameter groups by learning rate and weight decay; class weights and scale each have their own decay.

    Args:
        own: name of a parameter → options required by its network or loss.
        fused: update all parameters by a few kernels.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = config.class_decay if parameter.ndim > 0 else config.scale_decay
        options = {"weight_decay": decay, "rate_factor": 1.0, **own.get(name, {})}
        groups.setdefault((options["weight_decay"], options["rate_factor"]), []).append(parameter)
    settings = [
        {"params": members, "weight_decay": decay, "rate_factor": factor, "lr": config.lr * factor}
        for (decay, factor), members in groups.items()
    ]
    if config.algorithm == "adamw":
        return torch.optim.AdamW(settings, lr=config.lr, betas=(config.momentum, config.beta), fused=fused)
    nesterov = config.momentum > 0 and config.nesterov and config.convention == "torch"
    return RowSGD(settings, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=fused)
