"""Draw the roofline of a benchmark: ``python -m scripts.draw_roofline BENCH.json PICTURE.png``.

The roof is what the bench measured on the spot: a copy's bandwidth times the operations a byte, and
at most the speed of a matrix product. A point is a contender: operations a byte that its operators
read or write at least, and operations a second. Points near the sloping part would gain from moving
less, points near the level part from computing less; points far below both from neither.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scripts.benchmarks.timing import spread
from scripts.experiments.figures import BLUE, GRAY, RED
from scripts.experiments.pages import as_png
from scripts.training.reliability.files import write_whole

MARKERS = "os^vDPX*"


def main(args: Sequence[str] | None = None) -> int:
    """Draw every race of a file, one panel each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bench", type=Path, help="what scripts.bench wrote with --json")
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args(args)
    report = json.loads(arguments.bench.read_text(encoding="utf-8"))
    races = [result for result in report["results"] if "seconds" in result]
    if not races:
        parser.error(f"{arguments.bench} has no timed benchmark")
    bandwidth = report["machine"]["copy_gigabytes_per_second"]
    write_whole(arguments.picture, as_png(draw_all, races, bandwidth))
    return 0


def draw_all(races: Sequence[Mapping[str, Any]], bandwidth: float) -> Figure:
    """Draw the races, one panel each."""
    figure = Figure(figsize=(8, 4.5 * len(races)))
    for panel, race in zip(figure.subplots(len(races), squeeze=False)[:, 0], races, strict=True):
        draw(panel, race, bandwidth)
    return figure


def read_points(race: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Operations a byte and billions of operations a second, of contenders that were counted."""
    return {
        name: (
            flops / race["bytes_moved"][name],
            flops / spread(race["seconds"][name]).median / 1e9,
        )
        for name, flops in race["flops"].items()
        if flops
    }


def draw(panel: Any, race: Mapping[str, Any], bandwidth: float) -> None:
    """The roof and the contenders below it, both axes logarithmic."""
    peak, points = race["gemm_gflops"], read_points(race)
    edge = peak / bandwidth
    ends = [x for x, _ in points.values()] + [edge]
    xs = [min(ends) / 2, edge, max(ends) * 2]
    panel.loglog(xs, [min(peak, bandwidth * x) for x in xs], color="black")
    roof = {"textcoords": "offset points", "fontsize": 8}
    panel.annotate(f"matrix product, {peak:.0f} GFLOP/s", (edge, peak), (2, 4), **roof)
    middle = (xs[0] * edge) ** 0.5
    slope = (middle, bandwidth * middle)
    panel.annotate(f"memory, {bandwidth:.0f} GB/s", slope, (-6, 0), ha="right", **roof)
    for marker, (name, (intensity, gflops)) in zip(cycle(MARKERS), points.items(), strict=False):
        kinds = {"mgic_": RED, "PyG": GRAY, "authors'": GRAY}
        color = next((kinds[kind] for kind in kinds if name.startswith(kind)), BLUE)
        panel.plot(intensity, gflops, marker, color=color, label=name)
    panel.set_title(race["title"])
    panel.set(xlabel="operations a byte", ylabel="GFLOP/s")
    panel.grid()
    panel.legend(loc="lower right")


if __name__ == "__main__":
    sys.exit(main())
