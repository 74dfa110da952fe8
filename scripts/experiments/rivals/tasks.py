"""The tasks of the rivals: small networks that differ in nothing but their unit.

Every step has 1,024 rows.
"""

import functools
import math
import pydoc_data.topics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from datasets.shapes10 import CLASSES, Shapes10
from mgic_geo import knn_indices
from scripts.experiments.data import digit_batches, digits, function
from scripts.experiments.rivals.units import ROWS, WIDTH
from scripts.experiments.trial import Batch, Measure

MakeUnit = Callable[[], nn.Module]


@dataclass(frozen=True)
class Task:
    """A task of the comparison.

    Args:
        make_network: Builds the network around units.
        draw: ``(generator) -> batch``, one of training: inputs, then the target.
        held_out: ``() -> batches`` by which rates are chosen, never trained with.
        test: ``() -> batches``, always the same.
        loss: What is minimized.
        error: What the table has.
        unit: What the error is in.
        digits: Of the error, after the point.
        about: What it is, in a few words for the page.
    """

    make_network: Callable[[MakeUnit], nn.Module]
    draw: Callable[[torch.Generator], Batch]
    held_out: Callable[[], list[Batch]]
    test: Callable[[], list[Batch]]
    loss: Measure
    error: Measure
    unit: str
    digits: int
    about: str


class Block(nn.Module):
    """``x + unit(mix(x))``; ``mix`` brings together what is not in one row."""

    def __init__(self, unit: nn.Module, mix: nn.Module | None = None) -> None:
        super().__init__()
        self.mix, self.unit = mix, unit

    def forward(self, x: Tensor, *where: Tensor) -> Tensor:
        """Add what the unit gives."""
        return x + self.unit(x if self.mix is None else self.mix(x, *where))


class Network(nn.Module):
    """Stem, blocks, norm and head, with a pooling before the head where there is one target."""

    def __init__(
        self,
        stem: nn.Module,
        blocks: list[nn.Module],
        outputs: int,
        pool: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        self.stem, self.blocks = stem, nn.ModuleList(blocks)
        self.norm, self.pool, self.head = nn.LayerNorm(WIDTH), pool, nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor, *where: Tensor) -> Tensor:
        """Run the network."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, *where)
        return self.head(self.pool(self.norm(x)))


@functools.cache
def drawn(draw: Callable[[torch.Generator], Batch], count: int, seed: int = 1) -> list[Batch]:
    """Batches for a test, always the same."""
    generator = torch.Generator().manual_seed(seed)
    return [draw(generator) for _ in range(count)]


@functools.cache
def hold_out(count: int) -> tuple[Tensor, Tensor]:
    """The training samples to train with, and a tenth of them to choose rates by."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    return order[count // 10 :], order[: count // 10]


def percent_wrong(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong classes."""
    return 100 * (output.argmax(-1) != target).float().mean()


# plain vectors: x, y, a, b, c of the function, with fewer periods than in the paper

LOW, HIGH = (0.0, 0.0, 0.0, 1.0, 1.0), (math.pi, math.pi, 1.0, 2.0, 2.0)


def function_batch(generator: torch.Generator) -> Batch:
    """Fresh points, their variables scaled to [-1, 1]."""
    u = torch.rand(ROWS, 5, generator=generator)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    return 2 * u - 1, function(low + u * (high - low))


FUNCTION = Task(
    lambda unit: Network(nn.Linear(5, WIDTH), [Block(unit()) for _ in range(3)], 1),
    function_batch,
    partial(drawn, function_batch, 8, 2),
    partial(drawn, function_batch, 8),
    loss=functional.mse_loss,
    error=lambda output, target: functional.mse_loss(output, target) / target.var(),
    unit="share of the variance",
    digits=3,
    about="plain vectors, a cos(bx) sin(cy) of the paper's section 4.2 with x and y up to pi and c "
    "from 1 to 2, so that it can be learned in so few steps",
)

# a small transformer on characters

CONTEXT, HEADS = 64, 4  # characters of a text, and heads of its attention


class TextBlock(nn.Module):
    """Causal attention, then the unit as feed-forward map."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.read, self.write = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed_forward = Block(unit)

    def forward(self, x: Tensor) -> Tensor:
        """Attend and map."""
        parts = self.read(self.norm(x)).unflatten(-1, (3, HEADS, -1)).transpose(1, 3)
        query, key, value = parts.unbind(2)  # (B, heads, T, width of a head)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.feed_forward(x + self.write(seen.transpose(1, 2).flatten(2)))


class Embedding(nn.Module):
    """Of characters and their places, ``(B, T)`` to ``(B, T, width)``."""

    def __init__(self, num_characters: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(num_characters, WIDTH)
        self.places = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Look up."""
        return self.characters(x) + self.places


@functools.cache
def text() -> tuple[dict[str, Tensor], int]:
    """The splits of a text and its number of characters: the help that comes with Python."""
    whole = "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    alphabet = {character: number for number, character in enumerate(sorted(set(whole)))}
    codes = torch.tensor([alphabet[character] for character in whole])
    tenths = [len(codes) * tenth // 10 for tenth in (0, 8, 9, 10)]
    parts = zip(("train", "held out", "test"), pairwise(tenths), strict=True)
    return {split: codes[begin:end] for split, (begin, end) in parts}, len(alphabet)


def text_network(make_unit: MakeUnit) -> nn.Module:
    """A transformer of two blocks."""
    num_characters = text()[1]
    blocks: list[nn.Module] = [TextBlock(make_unit()) for _ in range(2)]
    return Network(Embedding(num_characters), blocks, num_characters)


def text_batch(split: str, generator: torch.Generator) -> Batch:
    """Pieces of a text, and the same one character later."""
    codes = text()[0][split]
    begins = torch.randint(len(codes) - CONTEXT, (ROWS // CONTEXT, 1), generator=generator)
    places = begins + torch.arange(CONTEXT + 1)
    return codes[places[:, :-1]], codes[places[:, 1:]]


def character_loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy."""
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


TEXT = Task(
    text_network,
    partial(text_batch, "train"),
    partial(drawn, partial(text_batch, "held out"), 16),
    partial(drawn, partial(text_batch, "test"), 16),
    loss=character_loss,
    error=lambda output, target: character_loss(output, target) / math.log(2),
    unit="bits a character",
    digits=3,
    about="a transformer of two blocks on the characters of the help that comes with Python "
    "(`pydoc_data.topics`, the last tenth is the test, the one before it is held out)",
)

# a small convolutional network on digits, channels last

SIZE, PATCH = 32, 4  # pixels: images have 8x8 places


class ChannelsLast(nn.Module):
    """A convolution that gives its channels last, and takes them so where it is told."""

    def __init__(self, conv: nn.Conv2d, *, takes_last: bool) -> None:
        super().__init__()
        self.conv, self.takes_last = conv, takes_last

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return self.conv(x.movedim(-1, 1) if self.takes_last else x).movedim(1, -1)


def image_network(make_unit: MakeUnit) -> nn.Module:
    """ConvNeXt's block around the unit, whose maps are 1x1 convolutions here."""

    def around() -> nn.Module:
        conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        return ChannelsLast(conv, takes_last=True)

    blocks: list[nn.Module] = [Block(make_unit(), around()) for _ in range(2)]
    stem = ChannelsLast(nn.Conv2d(1, WIDTH, PATCH, stride=PATCH), takes_last=False)
    return Network(stem, blocks, 10, pool=lambda x: x.mean((1, 2)))


def image_batch(generator: torch.Generator) -> Batch:
    """Sixteen digits."""
    images, classes = digits("train", SIZE)
    rows = hold_out(len(images))[0]
    rows = rows[torch.randint(len(rows), (ROWS * PATCH**2 // SIZE**2,), generator=generator)]
    return images[rows, :1], classes[rows]


def held_out_images() -> list[Batch]:
    """Digits of the training set that are not trained with."""
    images, classes = digits("train", SIZE)
    rows = hold_out(len(images))[1]
    return [(images[rows, :1], classes[rows])]


IMAGE = Task(
    image_network,
    image_batch,
    held_out_images,
    lambda: [(images[:, :1], classes) for images, classes in digit_batches(SIZE)],
    loss=functional.cross_entropy,
    error=percent_wrong,
    unit="% wrong",
    digits=1,
    about="depthwise 3x3 convolutions in front of it, on mnist5k",
)

# a small graph network on point clouds

POINTS, NEIGHBORS = 64, 8


class Neighborhood(nn.Module):
    """The mean over a node and its neighbors, ``(N, width)`` and ``(N, k)`` to ``(N, width)``."""

    def forward(self, x: Tensor, neighbors: Tensor) -> Tensor:
        """Average."""
        return (x + x[neighbors].sum(1)) / (1 + neighbors.size(1))


def graph_network(make_unit: MakeUnit) -> nn.Module:
    """Graph convolutions: the mean over the neighbors, then the unit."""
    blocks: list[nn.Module] = [Block(make_unit(), Neighborhood()) for _ in range(2)]
    stem = nn.Linear(3, WIDTH)
    return Network(stem, blocks, len(CLASSES), lambda x: x.unflatten(0, (-1, POINTS)).amax(1))


@functools.cache
def clouds(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Points ``(S, P, 3)``, neighbors within the cloud ``(S, P, k)`` and classes of shapes10."""
    data = Shapes10("data/shapes10", split, num_points=POINTS)
    pos = torch.stack([data[row].pos for row in range(len(data))])
    batch = torch.arange(len(pos)).repeat_interleave(POINTS)
    neighbors = knn_indices(pos.flatten(0, 1), NEIGHBORS, batch).view(len(pos), POINTS, -1)
    neighbors = neighbors - POINTS * torch.arange(len(pos)).view(-1, 1, 1)
    return pos, neighbors, torch.tensor(data.targets)


def graph_batch(split: str, rows: Tensor) -> Batch:
    """The clouds of some rows as one graph."""
    pos, neighbors, classes = clouds(split)
    begins = POINTS * torch.arange(len(rows)).view(-1, 1, 1)
    return pos[rows].flatten(0, 1), (neighbors[rows] + begins).flatten(0, 1), classes[rows]


def graph_training(generator: torch.Generator) -> Batch:
    """Sixteen clouds."""
    rows = hold_out(len(clouds("train")[0]))[0]
    return graph_batch(
        "train", rows[torch.randint(len(rows), (ROWS // POINTS,), generator=generator)]
    )


GRAPH = Task(
    graph_network,
    graph_training,
    lambda: [graph_batch("train", hold_out(len(clouds("train")[0]))[1])],
    lambda: [graph_batch("test", rows) for rows in torch.arange(len(clouds("test")[0])).split(50)],
    loss=functional.cross_entropy,
    error=percent_wrong,
    unit="% wrong",
    digits=1,
    about=f"means over neighbors in front of it, on shapes10 with {POINTS} points",
)

TASKS = {"function": FUNCTION, "text": TEXT, "image": IMAGE, "graph": GRAPH}
