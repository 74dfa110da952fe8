import io
import json
import math
from types import SimpleNamespace

import onnx
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mgic_geo import DiffGCNConv, create_model, edge_gradients, knn_graph
from mgic_geo.graphs.table import DerivativeTable
from mgic_geo.models.dense import DenseDiffConv, dense_gradients, dense_knn
from scripts import export
from scripts.exporting.formats import FORMATS
from scripts.exporting.subject import make_subject
from scripts.training.networks import make_network
from scripts.training.reliability.errors import TrainingError
from scripts.training.weights import Weights, export_weights, read_weights

OPTIONS = {"k": 4, "width": 8}
SMALL = ["--options", json.dumps(OPTIONS), "--num_classes", "3"]


class Wrong(nn.Module):
    def __init__(self, dense, error):
        super().__init__()
        self.dense, self.min_points, self.error = dense, dense.min_points, error

    def forward(self, pos):
        return self.dense(pos) + self.error


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    monkeypatch.setattr("scripts.exporting.subject.POINTS", 40)


def trained(name: str, folder, **options) -> Weights:
    """Weights of a network whose norms hold statistics, as a run leaves them."""
    torch.manual_seed(0)
    network = create_model(name, 3, **OPTIONS, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    info = {"name": name, "options": OPTIONS | options, "classes": list("abc"), "num_points": 20}
    weights = Weights(folder, network.state_dict(), info)
    export_weights(weights, folder)
    return weights


@pytest.mark.slow
def test_a_checkpoint_becomes_every_format(tmp_path, capsys):
    weights = trained("pointnet", tmp_path)
    args = ["pointnet", "--checkpoint", str(tmp_path), "--folder", str(tmp_path / "out")]
    assert export.main(args) == 0
    assert capsys.readouterr().out.count(" on batches of 1, 3, 8") == 3
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["pointnet.json", "pointnet.onnx", "pointnet.pt2", "pointnet.safetensors"]

    info = {
        entry.key: entry.value for entry in onnx.load(tmp_path / "out/pointnet.onnx").metadata_props
    }
    assert json.loads(info["model.json"])["classes"] == ["a", "b", "c"]
    extra = {"model.json": ""}
    torch.export.load(str(tmp_path / "out/pointnet.pt2"), extra_files=extra)
    assert json.loads(extra["model.json"])["num_points"] == 20
    again = read_weights(tmp_path / "out/pointnet.safetensors")
    assert_close(again.tensors, dict(weights.tensors))


def test_the_neighbor_search_and_a_convolution_become_onnx(tmp_path):
    torch.manual_seed(0)
    conv = DiffGCNConv(3, 4)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DenseDiffConv(conv)

        def forward(self, pos):
            first = torch.arange(pos.size(0)) * pos.size(1)
            neighbors = (dense_knn(pos, 4) + first[:, None, None]).flatten(0, 1)
            weight = dense_gradients(pos, neighbors, softening=1.0)
            return self.conv(pos.flatten(0, 1), DerivativeTable.of(neighbors, weight))

    sizes = ({0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("points", min=5)},)
    traced = torch.export.export(Layer(), (torch.rand(2, 9, 3),), dynamic_shapes=sizes)
    subject = SimpleNamespace(trace=lambda: traced, for_onnx=lambda: subject)
    weights = Weights(tmp_path, {}, {})
    run = FORMATS["onnx"].read(FORMATS["onnx"].write(subject, weights), weights)
    for pos in (torch.rand(3, 20, 3), torch.rand(1, 5, 3)):
        batch = torch.arange(pos.size(0)).repeat_interleave(pos.size(1))
        flat = pos.flatten(0, 1)
        graph = knn_graph(flat, 4, batch)
        expected = conv(flat, graph, edge_gradients(flat, graph, batch, softening=1.0))
        assert_close(run(pos), expected, rtol=0, atol=1e-5)


def test_what_differs_from_the_network_is_not_written(tmp_path, capsys, monkeypatch):
    subject = make_subject(make_network("pointnet", 3, {"width": 8}), {"name": "pointnet"})
    subject.module = Wrong(subject.module, 2e-4)
    monkeypatch.setattr(export, "make_subject", lambda *args, **kwargs: subject)
    monkeypatch.setitem(FORMATS, "pt2", AsItIs())
    args = ["pointnet", "--options", "{width: 8}", "--num_classes", "3", "--to", "pt2"]
    assert export.main([*args, "--folder", str(tmp_path)]) == 1
    assert "differ by 2.00e-04 from the network: not written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert export.main([*args, "--folder", str(tmp_path), "--tolerance", "1e-3"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["pointnet.pt2"]


class AsItIs:
    """A format that keeps the module, to run comparisons without translating anything."""

    suffix = ".pt2"

    def write(self, subject, weights):
        self.run = torch.no_grad()(subject.module)
        return {self.suffix: b""}

    def read(self, content, weights):
        return self.run


def compare(run, subject):
    return export.compare(run, subject, AsItIs(), None, 1e-6)


def test_a_file_that_gives_nan_is_told_apart():
    subject = make_subject(make_network("pointnet", 3, {"width": 8}), {"name": "pointnet"})
    assert compare(subject.reference, subject).worst == 0

    def nan_on_three(x):
        return subject.reference(x) + (torch.nan if x.size(0) == 3 else 0)

    assert math.isnan(compare(nan_on_three, subject).worst)


def one_farther(x, k):
    """Neighbors like those of the dense form, the last one replaced by the one behind it."""
    return dense_knn(x, k + 1)[:, :, [*range(k - 1), k]]


def copies_first(x, k):
    """Neighbors by rounded distances, of those that tie the one with the larger index."""
    distances = torch.cdist(x.double(), x.double()).mul(1e6).round()
    distances = distances - torch.arange(x.size(1)) / x.size(1) / 2
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return distances.topk(k, largest=False).indices


@pytest.mark.parametrize(("find", "ties"), [(copies_first, 6), (one_farther, 0)])
def test_neighbors_that_tie_are_compared_on_the_files_own(find, ties, monkeypatch):
    torch.manual_seed(0)
    subject = make_subject(make_network("dgcnn", 3, {"width": 8, "k": 4}), {"name": "dgcnn"})
    x = torch.randint(0, 5, (2, 40, 3)).float()  # many neighbors at equal distances
    monkeypatch.setattr(subject, "inputs", lambda batch: iter([x, x]))
    monkeypatch.setattr("mgic_geo.models.dense.dense_knn", find)
    found = compare(torch.no_grad()(subject.module), subject)
    assert found.ties == ties
    assert (found.worst <= 1e-6) == (ties > 0)


def test_files_that_are_there_stay(tmp_path, capsys):
    args = ["pointnet", *SMALL[2:], "--to", "safetensors", "--folder", str(tmp_path)]
    assert export.main(args) == 0
    before = (tmp_path / "pointnet.safetensors").read_bytes()
    assert export.main([*args, "--seed", "1"]) == 1
    assert "is there already: use --overwrite" in capsys.readouterr().err
    assert (tmp_path / "pointnet.safetensors").read_bytes() == before
    assert export.main([*args, "--seed", "1", "--overwrite"]) == 0
    assert (tmp_path / "pointnet.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["pointnett"], "no model 'pointnett'; there are dgcnn"),
        (["random_graph"], "cannot export random_graph: graph='random' has no dense form"),
        (["pointnet", "--options", "{k: 0}"], "cannot build pointnet: k must be at least 1"),
        (["dgcnn", "--checkpoint", "."], "holds diffgcn, not dgcnn"),
        (["diffgcn", "--checkpoint", ".", "--num_classes", "4"], "come from the checkpoint"),
    ],
)
def test_what_cannot_be_exported_is_said(args, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained("diffgcn", tmp_path)
    assert export.main(args) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()


def test_the_fused_form_of_an_image_network_is_compared_with_the_network(tmp_path, capsys):
    options = {"depth": 8, "width": 8, "group_size": 8, "coarse_size": 16}
    args = ["mgic_resnet56", "--options", json.dumps(options), "--folder", str(tmp_path)]
    assert export.main([*args, "--to", "pt2", "--fuse"]) == 0
    program = torch.export.load(str(tmp_path / "mgic_resnet56.pt2"))
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    left = [name for name in calls if "norm" in name]
    network = make_network("mgic_resnet56", 10, options)
    assert 0 < len(left) < sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    lines = capsys.readouterr().out.splitlines()
    assert sum("from the network's scores" in line for line in lines) == 1


def test_an_unknown_format_is_named(capsys):
    with pytest.raises(SystemExit):
        export.main(["pointnet", "--to", "onnx,tflite"])
    assert "no format tflite; there are onnx, pt2, safetensors" in capsys.readouterr().err


def test_weights_that_do_not_fit_are_refused(tmp_path):
    weights = trained("diffgcn", tmp_path)
    del weights.tensors["head.4.bias"]
    with pytest.raises(TrainingError, match=r"(?s)cannot use weights .*head\.4\.bias"):
        export.load_network(weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mgic_diffgcn", "mgic_dgcnn", "mgic_mobilenetv3"])
def test_whole_networks_become_onnx_and_pt2(name, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.exporting.subject.POINTS", 512)
    torch.manual_seed(0)
    network = make_network(name, 10, {}).train()
    images = name == "mgic_mobilenetv3"
    inputs = torch.randn(8, 3, 96, 96) if images else torch.randn(8 * 128, 3)
    batch = () if images else (torch.arange(8).repeat_interleave(128),)
    with torch.no_grad():
        for _ in range(30):  # norms hold statistics, as after training
            network(inputs, *batch)
    info = {"name": name, "options": {}, "classes": list("abcdefghij")}
    export_weights(Weights(tmp_path, network.state_dict(), info), tmp_path)
    args = [name, "--checkpoint", str(tmp_path), "--to", "onnx,pt2", "--tolerance", "1e-4"]
    assert export.main([*args, "--folder", str(tmp_path)]) == 0
    program = torch.export.load(io.BytesIO((tmp_path / f"{name}.pt2").read_bytes()))
    assert not [node for node in program.graph.nodes if str(node.target).startswith("mgic")]
