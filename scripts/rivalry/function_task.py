"""Plain vectors: a function of five numbers."""

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.paper_tables.function_task import function
from scripts.rivalry.task import Batch, Block, MakeUnit, Network, Task
from scripts.rivalry.units import ROWS, WIDTH

# x, y, a, b, c of the function: fewer periods than in the paper, to be learned in few steps
LOW, HIGH = (0.0, 0.0, 0.0, 1.0, 1.0), (math.pi, math.pi, 1.0, 2.0, 2.0)


def function_network(make_unit: MakeUnit) -> nn.Module:
    """On plain vectors."""
    return Network(nn.Linear(5, WIDTH), [Block(make_unit()) for _ in range(3)], 1)


def function_batch(generator: torch.Generator) -> Batch:
    """Fresh points, their variables scaled to [-1, 1]."""
    u = torch.rand(ROWS, 5, generator=generator)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    return 2 * u - 1, function(low + u * (high - low))


@functools.cache
def function_test() -> list[Batch]:
    """8,192 points."""
    generator = torch.Generator().manual_seed(1)
    return [function_batch(generator) for _ in range(8)]


def share_of_variance(output: Tensor, target: Tensor) -> Tensor:
    """Squared error, as a share of that of a constant."""
    return functional.mse_loss(output, target) / target.var()


TASK = Task(
    function_network,
    function_batch,
    function_test,
    loss=functional.mse_loss,
    error=share_of_variance,
    unit="share of the variance",
    digits=3,
    about="plain vectors, a cos(bx) sin(cy) of the paper's section 4.2 with x and y up to pi and c "
    "from 1 to 2, so that it can be learned in so few steps",
)
