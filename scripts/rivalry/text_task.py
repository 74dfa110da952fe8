"""A small transformer on characters."""

import functools
import math
import pydoc_data.topics

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.rivalry.task import Batch, Block, MakeUnit, Network, Task
from scripts.rivalry.units import ROWS, WIDTH

CONTEXT, HEADS = 64, 4  # characters of a text, and heads of its attention


class CausalAttention(nn.Module):
    """Every character sees those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.read, self.write = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the attention reads."""
        parts = self.read(self.norm(x)).unflatten(-1, (3, HEADS, -1)).transpose(1, 3)
        query, key, value = parts.unbind(2)  # (B, heads, T, width of a head)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + self.write(seen.transpose(1, 2).flatten(2))


class TextBlock(nn.Module):
    """Attention, then the unit as feed-forward map."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.attention, self.feed_forward = CausalAttention(), Block(unit)

    def forward(self, x: Tensor) -> Tensor:
        """Attend and map."""
        return self.feed_forward(self.attention(x))


class Embedding(nn.Module):
    """Of characters and their places."""

    def __init__(self, num_characters: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(num_characters, WIDTH)
        self.places = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T)`` to ``(B, T, width)``."""
        return self.characters(x) + self.places


@functools.cache
def text() -> tuple[Tensor, Tensor, int]:
    """Training text, test text and the number of characters: the help that comes with Python."""
    whole = "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    alphabet = {character: number for number, character in enumerate(sorted(set(whole)))}
    codes = torch.tensor([alphabet[character] for character in whole])
    split = len(codes) * 9 // 10
    return codes[:split], codes[split:], len(alphabet)


def text_network(make_unit: MakeUnit) -> nn.Module:
    """A transformer of two blocks."""
    num_characters = text()[2]
    blocks: list[nn.Module] = [TextBlock(make_unit()) for _ in range(2)]
    return Network(Embedding(num_characters), blocks, num_characters)


def text_batch(generator: torch.Generator) -> Batch:
    """Pieces of the training text, and the same one character later."""
    return _pieces(text()[0], generator)


def _pieces(codes: Tensor, generator: torch.Generator) -> Batch:
    begins = torch.randint(len(codes) - CONTEXT, (ROWS // CONTEXT, 1), generator=generator)
    places = begins + torch.arange(CONTEXT + 1)
    return codes[places[:, :-1]], codes[places[:, 1:]]


@functools.cache
def text_test() -> list[Batch]:
    """16,384 characters."""
    generator = torch.Generator().manual_seed(1)
    return [_pieces(text()[1], generator) for _ in range(16)]


def character_loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy."""
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


def bits(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy in bits."""
    return character_loss(output, target) / math.log(2)


TASK = Task(
    text_network,
    text_batch,
    text_test,
    loss=character_loss,
    error=bits,
    unit="bits a character",
    digits=3,
    about="a transformer of two blocks on the characters of the help that comes with Python "
    "(`pydoc_data.topics`, the last tenth is the test)",
)
