"""How many operations a GPU runs in a training step, and that none of them waits for the host.

The counts are taken on a processor, on the path of other devices, see
:mod:`scripts.benchmarks.launches`. When one grows, look what came with it:

    python -m scripts.benchmarks.launches dgcnn

prints how often each operation of PyTorch runs. A count below its bound by far may lower the bound.
"""

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from mgic_geo import create_model
from scripts.benchmarks.launches import NETWORKS, Launches, count_launches, training_step

ROOT = Path(__file__).parents[1]
PAGE, CONSTRAINTS = ROOT / "docs" / "performance.md", ROOT / "constraints.txt"
# operations of a training step, forward and backward
BOUNDS = {"dgcnn": 700, "mgic_dgcnn, additive": 900, "diffgcn": 500, "mgic_diffgcn": 1200}


@cache
def count(name: str, clouds: int, points: int = 24) -> Launches:
    return count_launches(training_step(name, clouds, points))


@pytest.mark.parametrize("name", BOUNDS)
def test_a_training_step_takes_no_more_operations_than_this(name):
    launches = count(name, 4)
    assert launches.operations.total() <= BOUNDS[name], launches


def test_the_page_on_performance_has_the_counts_of_today():
    pinned = re.search(r"^torch==(\S+)", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is None or torch.__version__.partition("+")[0] != pinned[1]:
        pytest.skip(f"the page is of another torch than {torch.__version__}")
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`(, additive)? \| ([\d,]+) \| 0 \|", page, re.MULTILINE)
    found = {name + cycle: int(number.replace(",", "")) for name, cycle, number in rows}
    assert found == {name: count(name, 4).operations.total() for name in [*BOUNDS, "mgic_dgcnn"]}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_operation_of_a_training_step_reads_a_value(name):
    assert not count(name, 4).reads


@pytest.mark.parametrize("name", BOUNDS)
def test_more_clouds_and_points_take_as_many_operations(name):
    few = count(name, 4).operations
    assert count(name, 64).operations == few
    assert count(name, 4, points=300).operations == few


def test_without_a_batch_size_values_are_read():
    model = create_model("diffgcn")
    pos, batch = torch.rand(40, 3), torch.arange(2).repeat_interleave(20)
    reads = count_launches(lambda: model(pos, batch)).reads
    assert reads == {"_local_scalar_dense": 2, "_unique2": 1}


def test_what_reads_a_value_is_seen():
    x = torch.ones(3)
    launches = count_launches(
        lambda: (x.nonzero(), bool(x.any()), int(x.sum()), x[x > 0], x.long().bincount())
    )
    assert set(launches.reads) == {"nonzero", "_local_scalar_dense", "index", "bincount"}
