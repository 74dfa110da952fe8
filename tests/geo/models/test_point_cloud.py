import copy
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.testing import assert_close
from torch_geometric.nn import GATConv, SAGEConv

from mgic_geo import (
    DensePointCloud,
    GroupedEdgeConv,
    MGICMessagePassing,
    PointCloudClassifier,
    create_model,
    knn_graph,
    knn_indices,
    list_models,
)
from mgic_geo.models import point_cloud
from mgic_geo.models.point_cloud import pool_max, random_neighbors
from tests.clouds import clouds, small
from tests.slow import some

MODELS = list_models()
SIZES = (12, 1, 9, 3)  # ragged: a lone point, and a cloud of fewer points than k + 1
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.fault(30, 33)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", [(8, 8), (20, 20, 20), SIZES])
def test_model_gives_logits_and_every_parameter_a_finite_gradient(name, sizes):
    model = small(name)
    logits = model(*clouds(*sizes))
    assert logits.shape == (len(sizes), 5)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", MODELS)
def test_batch_of_clouds_equals_a_run_for_each_in_evaluation(name):
    model, (pos, batch) = small(name).eval(), clouds(*SIZES)
    apart = torch.cat([model(pos[batch == cloud]) for cloud in range(len(SIZES))])
    assert_close(model(pos, batch), apart, **CLOSE)
    assert_close(model(pos, batch, len(SIZES)), apart, **CLOSE)


@pytest.mark.fault(33)
@pytest.mark.parametrize("name", MODELS)
def test_clouds_of_a_batch_may_be_interleaved(name):
    model, (pos, batch) = small(name).eval(), clouds(*SIZES)
    mixed = torch.cat([torch.arange(size) for size in SIZES]).argsort(stable=True)
    assert batch[mixed][:6].tolist() == [0, 1, 2, 3, 0, 2]
    assert_close(model(pos[mixed], batch[mixed]), model(pos, batch), **CLOSE)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "random_graph"])
def test_permuting_points_permutes_features_and_keeps_logits(name):
    model, (pos, _) = small(name).eval(), clouds(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    features = model.point_features(pos)
    assert features.shape == (20, model.point_width)
    assert_close(model.point_features(pos[order]), features[order], **CLOSE)
    assert_close(model(pos[order]), model(pos), **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_point_hears_its_neighbors_and_that_of_pointnet_itself_only(name):
    model, (pos, _) = small(name).eval(), clouds(20)
    jacobian = torch.autograd.functional.jacobian(
        lambda pos: model.point_features(pos)[0].sum(), pos
    )
    assert jacobian[0].any()
    assert jacobian[1:].any() == (name != "pointnet")


@pytest.mark.parametrize("name", MODELS)
def test_training_step_does_not_depend_on_the_unit_of_length(name):
    model, (pos, batch) = small(name, dropout=0.0), clouds(12, 12)
    pos = 1e4 * pos  # so that the eps of batch norm is small beside the variance
    assert_close(model(1000 * pos, batch), model(pos, batch), rtol=1e-6, atol=1e-6)


DEGENERATE = {
    "equal points": torch.full((10, 3), 0.3),
    "points on a line": torch.arange(10.0).unsqueeze(1) * torch.tensor([1.0, 2.0, 0.0]),
    "one point": torch.tensor([[1.0, 2.0, 3.0]]),
    "two equal points": torch.ones(2, 3),
    "points at the origin": torch.zeros(5, 3),
}


@pytest.mark.fault(30, 31)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_clouds_give_finite_logits_and_gradients(name, kind):
    model, cloud = small(name), DEGENERATE[kind].double()
    assert copy.deepcopy(model).eval()(cloud).isfinite().all()
    batch = torch.arange(2).repeat_interleave(len(cloud))
    logits = model(torch.cat([cloud, cloud]), batch)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


PYGS = {
    "SAGEConv": SAGEConv,
    "MGIC": partial(MGICMessagePassing, conv=GATConv, group_size=4),
    "MGIC, additive": partial(MGICMessagePassing, conv=SAGEConv, group_size=4, cycle="additive"),
}


@pytest.mark.parametrize("name", PYGS)
def test_convolutions_of_pyg_take_the_edges_of_the_neighbors(name):
    torch.manual_seed(0)
    model = PointCloudClassifier(PYGS[name], 5, k=4, width=8, graph="dynamic").double().eval()
    pos, batch = clouds(*SIZES)
    expected = model.map_points(pos, lambda x: (knn_graph(x, 4, batch).as_tensor(),))
    assert_close(model.point_features(pos, batch), expected, **CLOSE)
    assert model(pos, batch).shape == (len(SIZES), 5)
    with pytest.raises(ValueError, match=r"graph='none' has no edges, which .*Conv"):
        PointCloudClassifier(PYGS[name], 5, width=8, graph="none")


# by default one network of each graph, one of them with a cycle
@pytest.mark.parametrize("name", some(MODELS, "dgcnn", "mgic_diffgcn"))
def test_compiled_training_step_of_a_ragged_batch_equals_the_eager_one(name):
    model, (pos, batch) = small(name), clouds(*SIZES)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True, dynamic=False)
    losses = []
    for run in (model, compiled):
        losses.append(run(pos, batch, len(SIZES)).square().sum())
        losses[-1].backward()
    assert_close(losses[1], losses[0], **CLOSE)
    for (key, eager), parameter in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert_close(
            parameter.grad, eager.grad, **CLOSE, msg=lambda text, key=key: f"{key}: {text}"
        )
    assert_close(dict(twin.named_buffers()), dict(model.named_buffers()), **CLOSE)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "random_graph"])
def test_gradients_of_every_cloud_for_itself_by_vmap(name):
    model, pos = small(name).eval(), clouds(9, 9)[0].view(2, 9, 3)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], pos: Tensor) -> Tensor:
        return functional_call(model, parameters, (pos,)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, pos)
    for row in range(2):
        expected = torch.autograd.grad(loss(parameters, pos[row]), list(parameters.values()))
        assert_close([each[row] for each in found.values()], list(expected), **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_pickle_and_deep_copy_keep_the_values(name):
    model, (pos, _) = small(name).eval(), clouds(20)
    fresh = small(name).eval()
    for parameter in fresh.parameters():
        nn.init.normal_(parameter)
    fresh.load_state_dict(model.state_dict())
    for twin in (fresh, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_close(twin(pos), model(pos), rtol=0, atol=0)


@pytest.mark.fault(34)
@pytest.mark.parametrize("name", MODELS)
def test_training_with_one_cloud_is_refused(name):
    with pytest.raises(ValueError, match=r"at least 2 clouds in a batch .* got 1"):
        small(name)(clouds(20)[0])


@pytest.mark.parametrize(
    ("graph", "widths"),
    [("static", [3]), ("dynamic", [3] + [64] * 5), ("random", []), ("none", [])],
)
def test_neighbors_are_searched_in_space_once_or_in_the_features_of_every_gconv(
    graph, widths, monkeypatch
):
    searched = []

    def search(x: Tensor, *args: object, **options: object) -> Tensor:
        searched.append(x.size(1))
        return knn_indices(x, *args, **options)

    monkeypatch.setattr(point_cloud, "knn_indices", search)
    make_conv = nn.Linear if graph == "none" else GroupedEdgeConv
    PointCloudClassifier(make_conv, 5, graph=graph, k=4).eval()(torch.rand(9, 3))
    assert searched == widths


@pytest.mark.fault(30, 35, 36)
@pytest.mark.parametrize(
    ("pos", "batch", "message"),
    [
        (torch.rand(4, 2), None, r"pos must be \(N, 3\) floating point with N > 0, got \(4, 2\)"),
        (torch.rand(0, 3), None, r"N > 0, got \(0, 3\)"),
        (torch.ones(4, 3).long(), None, r"got \(4, 3\) of torch.int64"),
        (torch.rand(4, 3), torch.zeros(3).long(), r"batch must be \(4,\) int64, got \(3,\)"),
        (torch.rand(4, 3), torch.zeros(4), r"got \(4,\) of torch.float32"),
    ],
)
def test_input_that_is_no_batch_of_clouds_is_refused(pos, batch, message):
    with pytest.raises(ValueError, match=message):
        small("pointnet").eval()(pos, batch)


@pytest.mark.fault(35)
def test_pooling_takes_the_maximum_of_every_cloud_and_0_where_there_are_no_points():
    x = torch.tensor([[-1.0, 5.0], [-2.0, 6.0], [-3.0, 7.0]])
    expected = torch.tensor([[-3.0, 7.0], [0.0, 0.0], [-1.0, 6.0]])
    assert_close(pool_max(x, torch.tensor([2, 2, 0]), 3), expected)
    assert_close(pool_max(x, None, 1), torch.tensor([[-1.0, 7.0]]))


def test_random_neighbors_are_others_of_the_same_cloud():
    batch = torch.tensor([3, 0, 3, 0, 3, 1, 3])
    neighbors = random_neighbors(7, 50, batch)
    for point, row in enumerate(neighbors):
        others = ((batch == batch[point]) & (torch.arange(7) != point)).nonzero().flatten()
        expected = others if len(others) else torch.tensor([-1])
        assert_close(row.unique(), expected)  # 50 draws reach all of up to three


def test_random_neighbors_are_drawn_evenly():
    counts = random_neighbors(64, 640).flatten().bincount(minlength=64)
    assert (counts > 500).all()
    assert (counts < 780).all()


def test_random_neighbors_of_a_cloud_do_not_depend_on_its_batch():
    alone = random_neighbors(6, 4)
    batch = torch.tensor([2, 0, 2, 2, 2, 0, 0, 2, 2])
    members = (batch == 2).nonzero().flatten()
    assert_close(random_neighbors(9, 4, batch)[members], members[alone])


def test_more_clouds_than_batch_size_are_refused():
    pos, batch = clouds(5, 5, 5)
    with pytest.raises(ValueError, match="batch names cloud 2, but batch_size is 2"):
        small("pointnet")(pos, batch, batch_size=2)


@pytest.mark.fault(33, 35)
def test_cloud_without_points_is_one_of_zeros():
    model, (pos, batch) = small("pointnet").eval(), clouds(5, 5)
    assert_close(model(pos, batch, batch_size=3)[:2], model(pos, batch), **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_features_reach_the_points_and_neighbors_are_those_of_the_coordinates(name):
    model, (pos, batch) = small(name, num_features=2).eval(), clouds(9, 12)
    x = torch.randn(21, 2, dtype=pos.dtype, generator=torch.Generator().manual_seed(0))
    searched = []

    def find_graph(features):
        searched.append(features)
        return model._graph(features, pos, batch, None)

    features = model.map_points(pos, find_graph, x)
    assert searched[0] is pos
    assert_close(model.point_features(pos, batch, x=x), features)
    assert_close(model.point_features(pos[:9], x=x[:9]), features[:9], **CLOSE)
    one, other = (model.train().point_features(pos, batch, x=each) for each in (x, -x))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("name", ["mgic_diffgcn", "dgcnn_cls"])
def test_dense_form_takes_features_after_the_coordinates(name):
    model, (pos, batch) = small(name, num_features=2).eval(), clouds(9, 9)
    x = torch.randn(18, 2, dtype=pos.dtype, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([pos, x], dim=1).view(2, 9, 5)
    assert_close(DensePointCloud(model)(wide), model(pos, batch, x=x), **CLOSE)


def test_features_that_are_missing_or_not_wanted_are_said():
    pos, x = torch.rand(9, 3), torch.rand(9, 2)
    with pytest.raises(ValueError, match=r"num_features=2 x must be \(9, 2\), got None"):
        create_model("pointnet", num_features=2).eval()(pos)
    with pytest.raises(ValueError, match=r"num_features=0 x must be None, got \(9, 2\)"):
        create_model("pointnet").eval()(pos, x=x)
    with pytest.raises(TypeError, match=r"x is torch.float64, the network torch.float32"):
        create_model("pointnet", num_features=2).eval()(pos, x=x.double())
    with pytest.raises(ValueError, match="num_features must be 0 or more, got -1"):
        create_model("dgcnn_cls", num_features=-1)
