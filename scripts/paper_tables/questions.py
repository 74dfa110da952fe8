"""The questions that the paper leaves open: what is tried, against what, and on which tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.nn import functional

from mgic_vision import basic_block, inverted_residual
from mgic_vision.layers import HARDSWISH
from scripts.paper_tables import cycles
from scripts.paper_tables.trials import Task, accuracy, digits, relative_error, smooth_function
from scripts.training.optimizer import OptimizerSettings

FUNCTION = Task(
    "function",
    model="function_mgic",
    options={"c_max": 32, "group_size": 8, "coarse_size": 8},
    make_layer=partial(inverted_residual, kernel=1, activation=HARDSWISH),
    make_data=partial(smooth_function, 4_000, 2_000),
    loss=functional.mse_loss,
    score=relative_error,
    unit="MSE, % of the variance",
    higher_is_better=False,
    optimizer=OptimizerSettings(lr=0.01, weight_decay=0.0, warmup_epochs=0.5),
    batch_size=200,
    epochs=16,
)
DIGITS = Task(
    "digits",
    model="mgic_resnet56",
    options={"depth": 8, "group_size": 8, "coarse_size": 16},
    make_layer=basic_block,
    make_data=partial(digits, 500, 16),
    loss=functional.cross_entropy,
    score=accuracy,
    unit="test accuracy, %",
    higher_is_better=True,
    optimizer=OptimizerSettings(lr=0.005, weight_decay=0.01, warmup_epochs=0.5),
    batch_size=25,
    epochs=6,
)
TASKS = (FUNCTION, DIGITS)


@dataclass(frozen=True)
class Variant:
    """A network that is trained.

    Args:
        change: What is done to its cycles.
        options: By the name of a task, in place of the task's own; a task that is not named here
            is not for this variant.
    """

    change: cycles.Change = cycles.unchanged
    options: Mapping[str, dict[str, Any]] = field(
        default_factory=lambda: {"function": {}, "digits": {}}
    )


@dataclass(frozen=True)
class Question:
    """One line of the table: what is tried, against what.

    Args:
        text: What is asked.
        tried: Name of a variant.
        against: Name of the variant that it is compared with.
    """

    text: str
    tried: str
    against: str = "default"


# widths of at most s_c, where a coarser level costs more weights than it saves
NARROW = {"function": {"coarse_size": 32}, "digits": {"coarse_size": 32, "group_size": 16}}
ONE_LEVEL = {task: options | {"min_levels": 0} for task, options in NARROW.items()}
# 22, 44 and 88 channels: multiples of 11, whose groups would not become fewer by themselves. The
# function's widths are powers of 2, where both rules give the same groups
ODD = {"digits": {"width": 22}}
VARIANTS: dict[str, Variant] = {
    "default": Variant(),
    "interleaved groups": Variant(cycles.interleaved),
    "norm after R": Variant(cycles.norm_after_restriction),
    "uniform transfers": Variant(partial(cycles.initial_transfers, init="uniform")),
    "constant transfers": Variant(partial(cycles.initial_transfers, init="constant")),
    "zero scale": Variant(cycles.zero_scale),
    "shared R and P": Variant(cycles.shared_transfers),
    "whole features": Variant(cycles.whole_features),
    "both ways": Variant(cycles.both_ways),
    "narrow, one level": Variant(options=NARROW),
    "narrow, none": Variant(options=ONE_LEVEL),
    "odd widths, strict": Variant(options=ODD),
    "odd widths, any": Variant(partial(cycles.any_groups, group_size=8), ODD),
    "dense": Variant(cycles.dense),
    "dense as deep": Variant(cycles.dense_as_deep),
}
WHOLE = "P carries up whole features, not what changed"
QUESTIONS = (
    Question("groups of the transfers: interleaved, not contiguous", "interleaved groups"),
    Question("a norm after R, not only after P", "norm after R"),
    Question("initial transfers: uniform, not aggregating", "uniform transfers"),
    Question("initial transfers: constant, not aggregating", "constant transfers"),
    Question("scale of the norm after P: starts at 0, not 1", "zero scale"),
    Question("R and P: shared (P is R transposed), not separate", "shared R and P"),
    Question(WHOLE, "whole features"),
    Question("relaxation on the way down as well", "both ways"),
    Question("at widths up to s_c: no coarser level, not one", "narrow, none", "narrow, one level"),
    Question("group rule: without strict fall", "odd widths, any", "odd widths, strict"),
    Question("control: dense layers in place of cycles", "dense"),
    Question("control: dense, as many layers as the cycle has levels", "dense as deep"),
)
