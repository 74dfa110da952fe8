"""One run of the comparison: short enough to be done again when it is interrupted."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mgic_geo import num_weights
from scripts.rivalry.task import Task
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.errors import NonFiniteError
from scripts.training.reliability.seeds import derive_seed

OPTIMIZER = OptimizerSettings(lr=2e-3, weight_decay=1e-4)
WARMUP_SHARE = 0.1


def train(make_unit: Callable[[], nn.Module], task: Task, steps: int, seed: int) -> dict[str, Any]:
    """Train and test one network.

    Args:
        make_unit: Builds the unit under test.
        task: What it is trained for.
        steps: Steps of training.
        seed: First weights and batches follow from it; the batches are the same for all units.

    Returns:
        Weights, loss of the last tenth of the steps, test error and processor seconds.

    Raises:
        NonFiniteError: The loss is not finite any more.
    """
    torch.manual_seed(derive_seed(seed, "weights"))
    network = task.make_network(make_unit)
    optimizer = OPTIMIZER.make_optimizer(network.parameters())
    factor = OPTIMIZER.make_factor(max(1, round(WARMUP_SHARE * steps)), round(1 / WARMUP_SHARE))
    generator = torch.Generator().manual_seed(derive_seed(seed, "batches"))
    losses, start = [], time.process_time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = OPTIMIZER.lr * factor(step)
        *inputs, target = task.draw(generator)
        loss = task.loss(network(*inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise NonFiniteError(f"the loss of step {step} is {losses[-1]}")
    last = losses[-max(1, steps // 10) :]
    return {
        "weights": num_weights(network),
        "loss": sum(last) / len(last),
        "error": evaluate(network, task),
        "seconds": time.process_time() - start,
    }


@torch.no_grad()
def evaluate(network: nn.Module, task: Task) -> float:
    """Mean error over the test batches, which have equal sizes."""
    network.eval()
    errors = [task.error(network(*inputs), target).item() for *inputs, target in task.test()]
    return sum(errors) / len(errors)


def read_run(path: Path, make_unit: Callable[[], nn.Module], task: Task) -> dict[str, Any] | None:
    """What :func:`train` gave, or nothing where it has not run with this very network.

    A run from before a unit changed its size tells itself by the weights of its network.
    """
    if not path.exists():
        return None
    run = json.loads(path.read_text())
    return run if run["weights"] == num_weights(task.make_network(make_unit)) else None
