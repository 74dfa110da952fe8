import copy
import io
import json
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mgic_geo import DiffGCNConv, create_model, edge_gradients
from mgic_vision import create_model as create_image_model
from mgic_vision import inverted_residual, mgic_unit
from scripts import bench, draw_roofline
from scripts.benchmarks import (
    exported,
    images,
    machine,
    memory,
    points,
    pyg_baselines,
    scaling,
    timing,
)
from scripts.benchmarks.timing import Pair, exponents, race, ratios, spread

TINY = ["points", "--clouds", "2", "--points", "16", "--threads", "1", "--repeats", "3"]
TINY += ["--settle", "0"]
CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # float64 through ten layers


def hurry(patch):
    """Nothing that takes a second, or that outlives the test."""
    patch.setattr(machine, "keep_freed_memory", lambda: "allocator: untouched")
    patch.setattr(machine, "gemm_gflops", lambda: 100.0)
    patch.setattr(machine, "memory_bandwidth", lambda: 10.0)
    for module in (bench, timing):
        patch.setattr(module, "WARM_UP", 0)
    patch.setattr(points, "STEPS", 2)


@pytest.fixture
def quick_machine(monkeypatch):
    hurry(monkeypatch)


def test_every_round_runs_each_contender_once_in_an_order_of_its_own():
    seen = []
    names = ["a", "b", "c"]
    contenders = {name: lambda name=name: seen.append(name) for name in names}
    samples = race(contenders, repeats=8)
    rounds = [tuple(seen[i : i + 3]) for i in range(0, len(seen), 3)]
    assert len(rounds) == 8 + timing.WARM_UP
    assert all(sorted(order) == names for order in rounds)
    assert len(set(rounds)) > 2
    assert [len(samples[name]) for name in names] == [8, 8, 8]


def test_samples_are_the_seconds_that_runs_took_and_garbage_is_collected_again(monkeypatch):
    clock = iter(range(100))
    stopped = SimpleNamespace(perf_counter=lambda: float(next(clock)))
    monkeypatch.setattr(timing, "time", stopped)
    assert race({"a": lambda: next(clock)}, repeats=2) == {"a": [2.0, 2.0]}
    assert timing.gc.isenabled()


def test_runs_that_settle_come_in_front_and_are_not_timed():
    seen = []
    contenders = {name: lambda name=name: seen.append(name) for name in "ab"}
    samples = race(contenders, repeats=3, settle=2)
    assert [len(samples[name]) for name in "ab"] == [3, 3]
    visits = [seen[i : i + 3] for i in range(0, len(seen), 3)]
    assert len(visits) == 2 * (3 + timing.WARM_UP)
    assert all(len(set(visit)) == 1 for visit in visits)


def test_race_without_a_round_is_refused():
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        race({"a": int}, repeats=0)


def test_ratio_compares_runs_of_the_same_round():
    # both are slow in the last round: the ratio of medians would say 2
    samples = {"slow": [4.0, 8.0, 30.0], "fast": [1.0, 4.0, 10.0]}
    assert ratios(samples, Pair("slow", "fast")) == [4.0, 2.0, 3.0]
    assert spread(ratios(samples, Pair("slow", "fast"))).median == 3.0


def test_spread_of_one_sample_is_that_sample():
    assert spread([2.0]) == timing.Spread(2.0, 2.0, 2.0)


def test_flops_of_a_product_are_two_a_multiply_add():
    assert timing.count_flops(lambda: torch.ones(3, 4) @ torch.ones(4, 5)) == 2 * 3 * 4 * 5


def test_bytes_of_a_product_are_those_of_its_three_tensors_and_a_view_has_none():
    a, b = torch.ones(3, 4), torch.ones(5, 4)
    assert timing.count_bytes(lambda: a @ b.t()) == 4 * (12 + 20 + 15)


def test_machine_has_a_name_cores_versions_and_speed():
    assert machine.processor()
    assert machine.num_cores() >= 1
    assert machine.versions()["torch"] == torch.__version__.partition("+")[0]
    assert machine.gemm_gflops(size=64, repeats=1) > 0
    assert machine.memory_bandwidth(num_bytes=1 << 16, repeats=1) > 0


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    """The report of a run, and what it printed."""
    path = tmp_path_factory.mktemp("bench") / "run" / "points.json"
    threads, printed = torch.get_num_threads(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        hurry(patch)
        assert bench.main([*TINY, "--json", str(path)]) == 0
    assert torch.get_num_threads() == threads
    return path, printed.getvalue()


def test_run_prints_every_contender_and_keeps_samples_that_agree_with_its_ratios(run):
    path, printed = run
    report = json.loads(path.read_text())
    (result,) = report["results"]
    assert list(result["seconds"]) == list(points.MODELS)
    assert len(result["ratios"]) == len(points.PAIRS) == 4
    for name, seconds in result["seconds"].items():
        assert len(seconds) == 3
        assert min(seconds) > 0
        assert f" {1e3 * spread(seconds).median:.2f} " in line_of(printed, name)
    for pair in points.PAIRS:
        quotients = result["ratios"][str(pair)]
        slow, fast = result["seconds"][pair.slow], result["seconds"][pair.fast]
        assert quotients == [a / b for a, b in zip(slow, fast, strict=True)]
        assert f" {spread(quotients).median:.2f} " in line_of(printed, str(pair))
    assert min(result["flops"].values()) > 0
    assert "only 3 repeats" in printed
    assert "\nthreads: 1, 100 GFLOP/s" in printed
    assert [file.name for file in path.parent.iterdir()] == ["points.json"]


def line_of(printed: str, start: str) -> str:
    (line,) = [line for line in printed.splitlines() if line.startswith(f"{start}  ")]
    return line


TINY_RUNS = {
    "images": ["--image", "32", "--images", "2", "--no-onnx"],
    "exported": ["--models", "pointnet", "--batch", "2"],
    "scaling": ["--widths", "16", "32", "--nodes", "12", "--width", "16", "--wide-clouds", "2"],
    "memory": ["--blocks-images", "1"],
}


@pytest.fixture
def tiny_networks(monkeypatch):
    """Small networks in place of the two pairs of large ones."""
    small = {
        images.RESNET: lambda: create_image_model("resnet56", images.NUM_CLASSES, depth=8),
        images.MGIC_RESNET: lambda: create_image_model(
            "mgic_resnet56", images.NUM_CLASSES, depth=8, group_size=16, coarse_size=32
        ),
    }
    small |= {
        images.GHOSTNET: small[images.RESNET],
        images.MGIC_MOBILENET: small[images.MGIC_RESNET],
    }
    monkeypatch.setattr(images, "NETWORKS", small)
    block = (*memory.BLOCKS["inverted residual"][:1], 16, 32, 8)
    monkeypatch.setattr(memory, "BLOCKS", {"inverted residual": block})
    monkeypatch.setattr(exported, "TOOLS", {"quick": "quick"})
    quick = SimpleNamespace(write=lambda subject, _: subject, read=lambda made, _: made.reference)
    monkeypatch.setitem(exported.FORMATS, "quick", quick)
    monkeypatch.setattr("scripts.exporting.subject.POINTS", 16)


@pytest.mark.usefixtures("quick_machine", "tiny_networks")
def test_all_benchmarks_run_one_after_another_and_compare_what_they_name(tmp_path, capsys):
    path = tmp_path / "all.json"
    tiny = [option for options in TINY_RUNS.values() for option in options]
    tiny += ["--clouds", "2", "--points", "16", "--threads", "1", "--repeats", "1"]
    tiny += ["--settle", "0"]
    assert bench.main(["all", *tiny, "--json", str(path)]) == 0
    results = json.loads(path.read_text())["results"]
    assert len(results) == 1 + 4 + 1 + 2 + 2
    titles = [result["title"] for result in results]
    assert len(set(titles)) == len(titles)
    printed = capsys.readouterr().out
    for result in results:
        assert result["title"] in printed
        assert result["ratios"]
        for pair in result["ratios"]:
            assert set(pair.split(" / ")) <= set(result.get("seconds", result.get("bytes")))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_networks")
def test_onnx_runtime_gives_what_the_network_gives():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = images.fuse(images.NETWORKS[images.RESNET]())
    x = torch.rand(2, 3, 32, 32)
    (y,) = images.onnx_run(model, x, threads=1)()
    assert_close(torch.from_numpy(y), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["pointnet", "mgic_resnet56"])
def test_exported_contenders_give_what_the_network_gives(model, monkeypatch):
    monkeypatch.setattr("scripts.exporting.subject.POINTS", 12)
    arguments = bench.make_parser().parse_args(["exported", "--models", model, "--batch", "3"])
    (suite,) = exported.make_suites(arguments)
    results = {name: run() for name, run in suite.contenders.items()}
    assert len(results) == 2 * (1 + len(exported.TOOLS))
    for result in results.values():
        assert_close(result, results["plain, PyTorch"], rtol=1e-4, atol=1e-4)
    for pair in suite.pairs:
        assert {pair.slow, pair.fast} <= results.keys()


def test_roofline_has_a_point_for_every_contender_below_what_the_machine_reaches(run, tmp_path):
    path, picture = run[0], tmp_path / "roofline.png"
    report = json.loads(path.read_text())["results"][0]
    points_of = draw_roofline.read_points(report)
    assert list(points_of) == list(points.MODELS)
    for name, (intensity, gflops) in points_of.items():
        assert_close(intensity, report["flops"][name] / report["bytes_moved"][name])
        assert_close(gflops, report["flops"][name] / spread(report["seconds"][name]).median / 1e9)
    assert draw_roofline.main([str(path), str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_growth_of_a_cubic_contender_is_3():
    samples = {"8": [8.0, 16.0], "16": [64.0, 16.0]}
    assert_close(exponents(samples, {8: "8", 16: "16"}), [3.0, 0.0])


@pytest.mark.usefixtures("quick_machine")
def test_growth_is_fitted_for_each_kind_of_convolution():
    arguments = bench.make_parser().parse_args(["scaling", *TINY_RUNS["scaling"]])
    conv, network = scaling.make_suites(arguments)
    assert {kind: list(curve) for kind, curve in conv.curves.items()} == {
        "dense": [16, 32],
        "MGIC": [16, 32],
    }
    assert [str(pair) for pair in network.pairs] == ["diffgcn, 16 / mgic_diffgcn, 16"]


def test_memory_of_a_block_is_what_its_tensors_hold():
    x = torch.rand(1, 8, 4, 4)
    block = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(inplace=True), nn.Conv2d(16, 8, 1))
    middle, out = 4 * 16 * 16, 4 * 8 * 16
    assert memory.inference_peak(block, x) == middle + out
    assert memory.training_kept(block, x) >= middle + out


def test_memory_of_a_cycle_is_also_what_passes_between_its_levels():
    unit = mgic_unit(32, 32, inverted_residual, inner=32, group_size=8, coarse_size=16)
    x = torch.rand(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    coarse = x.nbytes // 2  # of its input and of its output
    assert memory.inference_peak(unit, x) >= x.nbytes + 2 * coarse


@pytest.mark.parametrize("inference", [False, True])
def test_training_step_moves_weights_and_statistics_and_inference_moves_none(
    inference, monkeypatch
):
    model = create_model("dgcnn")
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(points, "MODELS", {"only": lambda: model})
    options = ["--inference"] if inference else []
    (suite,) = points.make_suites(bench.make_parser().parse_args([*TINY, *options]))
    (step,) = suite.contenders.values()
    step()
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    if inference:
        assert kept == set(before)
    else:  # a norm takes the gradient of the bias in front of it away, up to rounding
        assert not [name for name in kept if not name.endswith("bias")]


@pytest.mark.usefixtures("quick_machine")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stones"], "invalid choice: 'stones'"),
        ([], "arguments are required: benchmark"),
        (["points", "--repeats", "0"], "--repeats and --threads must be at least 1"),
        (["points", "--clouds", "1"], "must be at least 2, got 1 and 1024"),
        (
            ["images", "--image", "16"],
            "--image must be at least 32 and --images at least 2",
        ),
        (["scaling", "--widths", "64"], r"--widths must be at least two numbers of at least 8"),
        (["scaling", "--wide-clouds", "1"], "--wide-clouds must be at least 2, got 1"),
        (["exported", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["exported", "--models", "stones"], "no model 'stones'"),
        (["memory", "--blocks-images", "0"], "--blocks-images must be at least 1, got 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("has_it", [True, False])
def test_missing_torch_cluster_is_said_with_the_command_that_installs_it(has_it, monkeypatch):
    monkeypatch.setattr(pyg_baselines, "HAS_TORCH_CLUSTER", has_it)
    (suite,) = points.make_suites(bench.make_parser().parse_args(TINY))
    notes = suite.notes
    assert any("make cluster" in note for note in notes) is not has_it


def cloud_batch() -> tuple[torch.Tensor, torch.Tensor]:
    ((pos, batch, _), _) = points.make_batches(3, 40, 1)[0]
    return pos.double(), batch


def test_plain_neighbors_are_the_nearest_of_the_same_cloud():
    pos, batch = cloud_batch()
    neighbor, center = pyg_baselines.plain_knn_graph(pos, 5, batch)
    distance = torch.cdist(pos, pos).masked_fill_(batch[:, None] != batch, torch.inf)
    nearest = distance.fill_diagonal_(torch.inf).topk(5, largest=False).indices
    assert_close(neighbor.view(-1, 5), nearest)
    assert_close(center, torch.arange(120).repeat_interleave(5))


def twins(name: str, baseline: nn.Module, graph: str) -> tuple[nn.Module, nn.Module]:
    """Our network, its batch statistics moved, and a baseline that took its weights over."""
    torch.manual_seed(0)
    ours = create_model(name, graph=graph).double()
    pos, batch = cloud_batch()
    with torch.no_grad():
        ours(pos, batch)
    baseline = baseline.double()
    for conv, norm, (layer,) in zip(baseline.convs, baseline.norms, ours.gconvs, strict=True):
        (linear,) = [module for module in conv.modules() if isinstance(module, nn.Linear)]
        lin = layer.conv.lin
        linear.load_state_dict({"weight": lin.weight[0], "bias": lin.bias})
        norm.load_state_dict(layer.norm.state_dict())
    baseline.mlps.load_state_dict(ours.mlps.state_dict())
    baseline.head[:-1].load_state_dict(ours.head[: len(baseline.head) - 1].state_dict())
    baseline.head[-1].load_state_dict(ours.head[-1].state_dict())
    return ours.eval(), baseline.eval()


@pytest.mark.parametrize(
    ("name", "graph", "make"),
    [
        ("dgcnn", "static", partial(pyg_baselines.pyg_dgcnn, dynamic=False)),
        ("dgcnn", "dynamic", partial(pyg_baselines.pyg_dgcnn, dynamic=True)),
        ("diffgcn", "static", pyg_baselines.edge_graph_diffgcn),  # of the authors' layer
    ],
)
def test_pyg_network_is_ours_with_plain_neighbors(name, graph, make, monkeypatch):
    monkeypatch.setattr(pyg_baselines, "knn_graph", pyg_baselines.plain_knn_graph)
    ours, theirs = twins(name, make(), graph)
    assert_close(theirs(*cloud_batch()), ours(*cloud_batch()), **CLOSE)


@pytest.mark.cluster
@pytest.mark.parametrize("graph", ["static", "dynamic"])
def test_pyg_network_is_ours_with_the_neighbors_of_torch_cluster(graph):
    pytest.importorskip("torch_cluster")
    ours, theirs = twins("dgcnn", pyg_baselines.pyg_dgcnn(dynamic=graph == "dynamic"), graph)
    assert_close(theirs(*cloud_batch()), ours(*cloud_batch()), **CLOSE)


@pytest.mark.parametrize("softening", [0.0, 1.0])
def test_authors_layer_is_our_diffgcn_convolution(softening):
    torch.manual_seed(0)
    ours = DiffGCNConv(6, 8).double()
    theirs = pyg_baselines.EdgeGraphDiffGCN(6, 8, softening=softening).double()
    theirs.lin.load_state_dict({"weight": ours.lin.weight[0], "bias": ours.lin.bias})
    pos, batch = cloud_batch()
    pos[1] = pos[0]  # an edge of length 0
    edge_index = pyg_baselines.plain_knn_graph(pos, 5, batch)
    x = torch.randn(pos.size(0), 6, dtype=torch.float64, requires_grad=True)
    weights = edge_gradients(pos, edge_index, batch, softening=softening)
    results = []
    for y in (ours(x, edge_index, weights), theirs(x, edge_index, pos, batch)):
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert_close(*results, **CLOSE)
