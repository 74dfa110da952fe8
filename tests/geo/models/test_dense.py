import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.nn import GCNConv

from mgic_geo import (
    DensePointCloud,
    PointCloudClassifier,
    create_model,
    fuse,
    knn_indices,
    list_models,
)
from mgic_geo.graphs.adjacency import from_neighbors
from mgic_geo.graphs.derivatives import edge_gradients
from mgic_geo.models.dense import dense_gradients, dense_knn
from tests.clouds import clouds, small

MODELS = [name for name in list_models() if name != "random_graph"]


def network(name: str, **options) -> PointCloudClassifier:
    return small(name, **options).float().eval()


def equal_clouds(num: int, size: int) -> tuple[Tensor, Tensor]:
    pos, batch = clouds(*[size] * num)
    return pos.float().view(num, size, 3), batch


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [5, 40])
def test_dense_form_gives_what_the_network_gives(name, size):
    model, (pos, batch) = network(name), equal_clouds(3, size)
    assert_close(DensePointCloud(model)(pos), model(pos.flatten(0, 1), batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_dense_form_of_the_fused_network_gives_what_the_network_gives(name):
    model, (pos, batch) = network(name), equal_clouds(3, 40)
    dense = DensePointCloud(fuse(model))
    assert len(list(dense.buffers())) < len(list(model.buffers()))
    assert_close(dense(pos), model(pos.flatten(0, 1), batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"graph": "dynamic"}, {"layers": 2}, {"softening": 0.0}])
def test_dense_form_follows_the_options(options):
    model, (pos, batch) = network("mgic_diffgcn", **options), equal_clouds(2, 30)
    assert_close(DensePointCloud(model)(pos), model(pos.flatten(0, 1), batch), rtol=0, atol=1e-5)


def test_duplicate_points_keep_their_place():
    pos, batch = equal_clouds(2, 30)
    pos[0, 10:20] = pos[0, :10]
    model = network("diffgcn")
    assert_close(DensePointCloud(model)(pos), model(pos.flatten(0, 1), batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dim", [3, 16])
def test_dense_neighbors_are_the_exact_ones(dim):
    x = torch.randn(2, 50, dim) + 100
    expected = torch.stack([knn_indices(cloud, 6) for cloud in x])
    assert_close(dense_knn(x, 6), expected)


def test_dense_gradients_are_those_of_the_edges():
    pos, _ = equal_clouds(1, 20)
    neighbors = knn_indices(pos[0], 4)
    expected = edge_gradients(pos[0], from_neighbors(neighbors), softening=0.5)
    assert_close(dense_gradients(pos, neighbors, softening=0.5).flatten(0, 1), expected)


def test_the_network_itself_stays_as_it_is():
    model = network("mgic_diffgcn")
    before = copy.deepcopy(model.state_dict())
    dense = DensePointCloud(model)
    assert "DiffGCNConv" in repr(model)
    for parameter in dense.parameters():
        nn.init.zeros_(parameter)
    assert_close(dict(model.state_dict()), dict(before))


def test_what_has_no_dense_form_is_named():
    with pytest.raises(ValueError, match="graph='random' has no dense form"):
        DensePointCloud(create_model("random_graph"))
    with pytest.raises(ValueError, match="GCNConv has no dense form"):
        DensePointCloud(PointCloudClassifier(GCNConv, 3))


@pytest.mark.skipif(
    torch.__version__ < "2.14", reason="torch.export guarded a size that it need not"
)
def test_a_traced_program_takes_other_sizes_and_needs_none_of_this_package():
    model = network("diffgcn")
    dense = DensePointCloud(model)
    sizes = torch.export.Dim("batch"), torch.export.Dim("points", min=dense.min_points)
    shapes = ({0: sizes[0], 1: sizes[1]},)
    program = torch.export.export(dense, (equal_clouds(2, 12)[0],), dynamic_shapes=shapes)
    for num, size in ((1, 5), (3, 40)):
        pos, batch = equal_clouds(num, size)
        expected = model(pos.flatten(0, 1), batch)
        assert_close(program.module()(pos), expected, rtol=0, atol=1e-5)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.linear.default" in operators
    assert not [name for name in operators if name.startswith("mgic")]
