"""Time this project's networks beside what users would otherwise run.

``python -m scripts.bench points|images|exported|scaling|memory|kernels|all`` prints medians,
interquartile ranges and ratios; ``--json`` keeps every sample. Contenders run interleaved in one
process, see :mod:`scripts.benchmarks.timing`. ``points|images --device cuda`` times what
:mod:`scripts.benchmarks.gpu` lists instead.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarks import exported, gpu, images, kernels, machine, memory, points, scaling
from scripts.benchmarks.timing import (
    WARM_UP,
    Bytes,
    Suite,
    count_bytes,
    count_flops,
    exponents,
    race,
    ratios,
    spread,
)
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.files import write_json

# name -> module with SUMMARY, add_arguments(parser) and make_suites(arguments)
BENCHMARKS = {
    "points": points,
    "images": images,
    "exported": exported,
    "scaling": scaling,
    "memory": memory,
    "kernels": kernels,
}
ALL = "all"
FEW_REPEATS = 20
ON_GPU = ("points", "images")


def main(args: Sequence[str] | None = None) -> int:
    """Run one benchmark or all of them."""
    parser = make_parser()
    arguments = parser.parse_args(args)
    if arguments.repeats < 1 or arguments.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    if arguments.device == "cuda" and arguments.benchmark not in ON_GPU:
        parser.error(f"--device cuda has {' and '.join(ON_GPU)}, not {arguments.benchmark}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and PyTorch sees none")
    if arguments.settle < 0:
        parser.error(f"--settle must be at least 0, got {arguments.settle}")
    try:
        with machine.threads(arguments.threads):
            report = run_on_gpu(arguments) if arguments.device == "cuda" else run(arguments)
    except (ValueError, TrainingError) as error:
        parser.error(str(error))
    if arguments.json is not None:
        write_json(arguments.json, report)
        print(f"\nall samples: {arguments.json}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """One subcommand a benchmark and one for all, with the options that they share."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="benchmark", required=True)
    summaries = {name: module.SUMMARY for name, module in BENCHMARKS.items()}
    for name, summary in {**summaries, ALL: "every benchmark, one after another"}.items():
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("--json", type=Path, metavar="FILE", help="write every sample here")
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        command.add_argument("--threads", type=int, default=machine.num_cores())
        command.add_argument("--repeats", type=int, default=FEW_REPEATS)
        command.add_argument(
            "--settle", type=int, default=1, help="runs in a round before the one that is timed"
        )
        for module in chosen(name):
            module.add_arguments(command)
    return parser


def chosen(name: str) -> list[Any]:
    """The modules of one benchmark, or of all."""
    if name == ALL:  # but for what is of interest to who writes kernels
        return [module for module in BENCHMARKS.values() if module is not kernels]
    return [BENCHMARKS[name]]


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the tables of the benchmarks and return what is behind them."""
    facts = describe_machine(arguments.threads)
    results = []
    for module in chosen(arguments.benchmark):
        for work in module.make_suites(arguments):
            print(f"\n{work.title}")
            notes = list(work.notes)
            if isinstance(work, Suite) and arguments.repeats < FEW_REPEATS:
                notes.append(f"only {arguments.repeats} repeats: read medians with care")
            for note in notes:
                print(f"note: {note}")
            result = run_suite(work, arguments) if isinstance(work, Suite) else show_bytes(work)
            results.append({"title": work.title, "notes": notes, **result})
    return {
        "benchmark": arguments.benchmark,
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()},
        "machine": facts,
        "results": results,
    }


def run_on_gpu(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the tables of a GPU and return what is behind them."""
    facts = gpu.describe()
    print(f"card: {facts['card']}, CUDA {facts['cuda']}, torch {facts['versions']['torch']}")
    results = []
    for suite in gpu.make_suites(arguments):
        print(f"\n{suite.title}\n")
        result = gpu.run_suite(suite, arguments.repeats)
        print_times(result["seconds"], dict.fromkeys(result["seconds"], 0), 1.0)
        print_spreads("how many times as long", result["ratios"])
        for name, peak in result["peak_bytes"].items():
            print(f"{name}: {peak / 1e6:.0f} MB at most")
        results.append(result)
    return {"benchmark": arguments.benchmark, "machine": facts, "results": results}


def run_suite(suite: Suite, arguments: argparse.Namespace) -> dict[str, Any]:
    """Race the contenders, print what came out and return it."""
    threads = suite.threads or arguments.threads
    with machine.threads(threads):
        peak = machine.gemm_gflops()
        flops = {name: count_flops(run) for name, run in suite.contenders.items()}
        traffic = {name: count_bytes(run) for name, run in suite.contenders.items()}
        samples = race(
            suite.contenders,
            repeats=arguments.repeats,
            settle=arguments.settle,
            on_round=_progress(arguments),
        )
    comparisons = {str(pair): ratios(samples, pair) for pair in suite.pairs}
    growth = {name: exponents(samples, curve) for name, curve in suite.curves.items()}
    print(f"threads: {threads}, {peak:.0f} GFLOP/s in a matrix product")
    print()
    print_times(samples, flops, peak)
    for heading, values in (
        ("how many times as long", comparisons),
        ("time grows with width to the power of", growth),
    ):
        if values:
            print()
            print_spreads(heading, values)
    return {
        "threads": threads,
        "gemm_gflops": peak,
        "warm_up": WARM_UP,
        "flops": flops,
        "bytes_moved": traffic,
        "seconds": samples,
        "ratios": comparisons,
        "exponents": growth,
    }


def show_bytes(counts: Bytes) -> dict[str, Any]:
    """Print amounts of memory and their ratios, and return them."""
    comparisons = {
        str(pair): counts.amounts[pair.slow] / counts.amounts[pair.fast] for pair in counts.pairs
    }
    print()
    print_table([("contender", "MB"), *((k, f"{v / 1e6:.2f}") for k, v in counts.amounts.items())])
    print()
    rows = ((name, f"{value:.2f}") for name, value in comparisons.items())
    print_table([("how many times as much", "ratio"), *rows])
    return {"bytes": dict(counts.amounts), "ratios": comparisons}


def describe_machine(threads: int) -> dict[str, Any]:
    """Measure and print what the contenders ran on."""
    facts: dict[str, Any] = {
        "processor": machine.processor(),
        "cores": machine.num_cores(),
        "threads": threads,
        "versions": machine.versions(),
        "allocator": machine.keep_freed_memory(),
        "gemm_gflops": machine.gemm_gflops(),
        "copy_gigabytes_per_second": machine.memory_bandwidth(),
    }
    known = ", ".join(f"{k} {v or 'not installed'}" for k, v in facts["versions"].items())
    print(f"machine: {facts['processor']}, cores: {facts['cores']}, threads: {threads}")
    print(
        f"reaches: {facts['gemm_gflops']:.0f} GFLOP/s in a matrix product, "
        f"{facts['copy_gigabytes_per_second']:.1f} GB/s in a copy"
    )
    print(f"versions: {known}")
    print(facts["allocator"])
    return facts


def print_times(samples: dict[str, list[float]], flops: dict[str, int], peak: float) -> None:
    """One row a contender: milliseconds, and the share of the matrix product's speed."""
    rows = [("contender", "median ms", "IQR ms", "GFLOP", "of peak")]
    for name, seconds in samples.items():
        times = spread([1e3 * second for second in seconds])
        work = flops[name] / 1e9
        rows.append(
            (
                name,
                f"{times.median:.2f}",
                f"{times.low:.2f} to {times.high:.2f}",
                f"{work:.2f}" if work else "-",  # no count of what runs outside torch
                f"{100e3 * work / times.median / peak:.0f} %" if work else "-",
            )
        )
    print_table(rows)


def print_spreads(heading: str, values: dict[str, list[float]]) -> None:
    """One row a name: median and quartiles of one number a round."""
    rows = [(heading, "median", "IQR")]
    for name, numbers in values.items():
        of = spread(numbers)
        rows.append((name, f"{of.median:.2f}", f"{of.low:.2f} to {of.high:.2f}"))
    print_table(rows)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns aligned: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        line = [name.ljust(widths[0])]
        line += [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join(line).rstrip())


def _progress(arguments: argparse.Namespace):
    """Say every round on the error stream, which goes on where the tables are kept in a file."""
    start = time.perf_counter()

    def report(number: int) -> None:
        done, rounds = number + WARM_UP, arguments.repeats + WARM_UP
        left = (time.perf_counter() - start) / done * (rounds - done)
        print(f"round {done} of {rounds}, about {left:.0f} s left", file=sys.stderr, flush=True)

    return report


if __name__ == "__main__":
    sys.exit(main())
