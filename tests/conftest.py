"""What all tests share.

Libraries are imported where they are needed: the process that hands tests out to others needs none.
"""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests import no_network

no_network.refuse_network()

LONG = (
    *("test_train", "test_recovery", "test_compare", "test_compile", "test_export", "test_build"),
    *("test_vision", "test_cycle", "test_blocks", "test_threads"),
    *("test_paper", "test_bench", "test_supply", "test_faults"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long ``make fuzz`` draws cases, and from where on."""
    parser.addoption("--fuzz-minutes", dest="fuzz_minutes", type=float, default=1.0)
    parser.addoption("--fuzz-seed", dest="fuzz_seed", type=int, default=1000)


def pytest_configure() -> None:
    """Let nothing pass without the kernels that flags were given for."""
    if os.environ.get("MGIC_CFLAGS"):
        from mgic_geo.ops.csrc import build
        from mgic_vision.ops.kernel import IMAGES

        if None in (build.library(), build.library(IMAGES)):
            raise pytest.UsageError("MGIC_CFLAGS is set, but the kernels cannot be compiled")
    gc.disable()  # a quarter of the collection went into looking through what is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no process is left with one in the end."""
    items.sort(key=lambda item: not item.path.name.startswith(LONG))


def pytest_collection_finish() -> None:
    """Look for garbage again, but seldom: every look goes through what is imported.

    ``gc.freeze`` would hide from hypothesis what it keeps.
    """
    gc.set_threshold(50_000)
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let only tests that are marked so use the network."""
    no_network.allowed = item.get_closest_marker("network") is not None


@pytest.fixture(scope="module", params=["compiled", "plain"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything once with the compiled kernels and once in plain PyTorch."""
    from mgic_geo.ops.csrc import build
    from tests.kernels import kernels_off

    if request.param == "compiled":
        if build.library() is None:
            pytest.skip("no C compiler")
        yield
        return
    with kernels_off():
        yield


@pytest.fixture(scope="module")
def plain() -> Iterator[None]:
    """Everything in plain PyTorch."""
    from tests.kernels import kernels_off

    with kernels_off():
        yield


@pytest.fixture(autouse=True)
def sequential(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what PyG's ``Sequential`` does: each one made replaces the forward of all others."""
    from torch_geometric.nn import Sequential

    monkeypatch.setattr(Sequential, "forward", Sequential.forward)


@pytest.fixture
def ran() -> Iterator[Callable[[str], dict[str, int]]]:
    """Of an operation: the implementations that have run in this test, and how often."""
    from mgic_geo.ops.operator import noting

    with noting() as counts:

        def implementations(operation: str) -> dict[str, int]:
            found = Counter[str]()
            for (name, ran, _), number in counts.items():
                if name.partition("::")[2] == operation:
                    found[ran] += number
            return dict(found)

        yield implementations


@pytest.fixture
def root(tmp_path):
    """A folder with few meshes in ModelNet10's layout."""
    from tests.meshes import fill

    fill(tmp_path / "ModelNet10")
    return tmp_path


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let the results say which faults a test is about, for `python -m scripts.faults`."""
    for mark in item.iter_markers("fault"):
        item.user_properties += [("fault", number) for number in mark.args]
