import copy
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mgic_geo import DiffGCNConv, create_model, edge_gradients
from scripts import bench
from scripts.benchmarks import machine, points, pyg_baselines, timing
from scripts.benchmarks.timing import Contender, Pair, race, ratios, spread

TINY = ["points", "--clouds", "2", "--points", "16", "--threads", "1", "--repeats", "3"]
CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # float64 through ten layers


@pytest.fixture
def quick_machine(monkeypatch):
    """Nothing that takes a second, or that outlives the test."""
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: "allocator: untouched")
    monkeypatch.setattr(machine, "gemm_gflops", lambda: 100.0)
    monkeypatch.setattr(machine, "memory_bandwidth", lambda: 10.0)


def test_every_round_runs_each_contender_once_in_an_order_of_its_own():
    seen = []
    names = ["a", "b", "c"]
    contenders = [Contender(name, lambda name=name: seen.append(name)) for name in names]
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
    assert race([Contender("a", lambda: next(clock))], repeats=2) == {"a": [2.0, 2.0]}
    assert timing.gc.isenabled()


@pytest.mark.parametrize(
    ("names", "repeats", "message"),
    [("aa", 1, "different names, got"), ("ab", 0, "repeats must be at least 1, got 0")],
)
def test_race_that_cannot_be_read_is_refused(names, repeats, message):
    with pytest.raises(ValueError, match=message):
        race([Contender(name, int) for name in names], repeats=repeats)


def test_ratio_compares_runs_of_the_same_round():
    # both are slow in the last round: the ratio of medians would say 2
    samples = {"slow": [4.0, 8.0, 30.0], "fast": [1.0, 4.0, 10.0]}
    assert ratios(samples, Pair("slow", "fast")) == [4.0, 2.0, 3.0]
    assert spread(ratios(samples, Pair("slow", "fast"))).median == 3.0


def test_spread_of_one_sample_is_that_sample():
    assert spread([2.0]) == timing.Spread(2.0, 2.0, 2.0)


def test_flops_of_a_product_are_two_a_multiply_add():
    assert timing.count_flops(lambda: torch.ones(3, 4) @ torch.ones(4, 5)) == 2 * 3 * 4 * 5


def test_machine_has_a_name_cores_versions_and_speed():
    assert machine.processor()
    assert machine.num_cores() >= 1
    assert machine.versions()["torch"] == torch.__version__.partition("+")[0]
    assert machine.gemm_gflops(size=64, repeats=1) > 0
    assert machine.memory_bandwidth(num_bytes=1 << 16, repeats=1) > 0


@pytest.mark.usefixtures("quick_machine")
def test_run_prints_every_contender_and_keeps_samples_that_agree_with_its_ratios(tmp_path, capsys):
    path, threads = tmp_path / "run" / "points.json", torch.get_num_threads()
    assert bench.main([*TINY, "--json", str(path)]) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    report = json.loads(path.read_text())
    assert list(report["seconds"]) == list(points.MODELS)
    assert len(report["ratios"]) == len(points.PAIRS) == 4
    for name, seconds in report["seconds"].items():
        assert len(seconds) == 3
        assert min(seconds) > 0
        assert f" {1e3 * spread(seconds).median:.1f} " in line_of(printed, name)
    for pair in points.PAIRS:
        quotients = report["ratios"][str(pair)]
        slow, fast = report["seconds"][pair.slow], report["seconds"][pair.fast]
        assert quotients == [a / b for a, b in zip(slow, fast, strict=True)]
        assert f" {spread(quotients).median:.2f} " in line_of(printed, str(pair))
    assert min(report["flops"].values()) > 0
    assert "only 3 repeats" in printed
    assert ", threads: 1\n" in printed
    assert [file.name for file in path.parent.iterdir()] == ["points.json"]


def line_of(printed: str, start: str) -> str:
    (line,) = [line for line in printed.splitlines() if line.startswith(f"{start}  ")]
    return line


@pytest.mark.parametrize("inference", [False, True])
def test_training_step_moves_weights_and_statistics_and_inference_moves_none(
    inference, monkeypatch
):
    model = create_model("dgcnn")
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(points, "MODELS", {"only": lambda: model})
    options = ["--inference"] if inference else []
    (contender,) = points.make_suite(bench.make_parser().parse_args([*TINY, *options])).contenders
    contender.run()
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    if inference:
        assert kept == set(before)
    else:  # a norm takes the gradient of the bias in front of it away, up to rounding
        assert not [name for name in kept if not name.endswith("bias")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stones"], "invalid choice: 'stones'"),
        ([], "arguments are required: benchmark"),
        (["points", "--repeats", "0"], "--repeats and --threads must be at least 1"),
        (["points", "--clouds", "1"], "must be at least 2, got 1 and 1024"),
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
    notes = points.make_suite(bench.make_parser().parse_args(TINY)).notes
    assert any("make cluster" in note for note in notes) is not has_it


def cloud_batch() -> tuple[torch.Tensor, torch.Tensor]:
    pos, batch, _ = points.make_clouds(3, 40)
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


@pytest.mark.parametrize("graph", ["static", "dynamic"])
def test_pyg_network_is_ours_with_plain_neighbors(graph, monkeypatch):
    monkeypatch.setattr(pyg_baselines, "knn_graph", pyg_baselines.plain_knn_graph)
    baseline = pyg_baselines.pyg_dgcnn(dynamic=graph == "dynamic")
    ours, theirs = twins("dgcnn", baseline, graph)
    assert_close(theirs(*cloud_batch()), ours(*cloud_batch()), **CLOSE)


@pytest.mark.cluster
@pytest.mark.parametrize("graph", ["static", "dynamic"])
def test_pyg_network_is_ours_with_the_neighbors_of_torch_cluster(graph):
    pytest.importorskip("torch_cluster")
    ours, theirs = twins("dgcnn", pyg_baselines.pyg_dgcnn(dynamic=graph == "dynamic"), graph)
    assert_close(theirs(*cloud_batch()), ours(*cloud_batch()), **CLOSE)


def test_network_of_the_authors_layer_is_our_diffgcn(monkeypatch):
    monkeypatch.setattr(pyg_baselines, "knn_graph", pyg_baselines.plain_knn_graph)
    ours, theirs = twins("diffgcn", pyg_baselines.edge_graph_diffgcn(), "static")
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
