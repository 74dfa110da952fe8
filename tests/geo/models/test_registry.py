import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mgic_geo
from mgic_geo import create_model, knn_indices, list_models


def num_weights(name: str, **options) -> int:
    return sum(parameter.numel() for parameter in create_model(name, **options).parameters())


# Table 11 reports 0.16, 0.57 and 0.11 million for DGCNN, DiffGCN and MGIC-DiffGCN
@pytest.mark.parametrize(
    ("name", "operands", "millions"),
    [("dgcnn", 2, 0.16), ("diffgcn", 7, 0.51), ("pointnet", 1, 0.1)],
)
def test_weights_follow_from_table_10(name, operands, millions):
    convs = 3 * operands * 64 + 17 * operands * 64 * 64 + 18 * 64
    mlps = 5 * (64 * 64 + 64)
    norms = (18 + 5) * 2 * 64
    expected = convs + mlps + norms + 64 * 10 + 10
    assert num_weights(name, layers=3) == expected
    assert expected / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    ("name", "operands", "millions"), [("mgic_diffgcn", 7, 0.106), ("mgic_dgcnn", 2, 0.06)]
)
def test_weights_of_cycles_follow_from_the_cost_line_of_the_block(name, operands, millions):
    widths, groups = [64, 32, 16, 8, 4], [16, 8, 4, 2, 1]  # by hand, for group_size 4
    block = sum(operands * c * c // g + c for c, g in zip(widths, groups, strict=True))
    block += sum(c * c // g + 2 * c for c, g in zip(widths[:-1], groups[:-1], strict=True))
    block += sum(2 * c for c in widths[1:])  # norms of the coarser levels
    entry = operands * 3 * 64 + 64 + 2 * 64
    norms, mlps = (18 + 5) * 2 * 64, 5 * (64 * 64 + 64)
    expected = 18 * block + entry + norms + mlps + 64 * 10 + 10
    assert num_weights(name, layers=3, group_size=4) == expected
    assert expected / 1e6 == pytest.approx(millions, abs=0.001)


def test_random_graph_has_the_weights_of_dgcnn():
    shapes = [
        {key: value.shape for key, value in create_model(name).state_dict().items()}
        for name in ("dgcnn", "random_graph")
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("name", "options", "hops"),
    [
        ("dgcnn", {}, 6),
        ("dgcnn", {"layers": 3}, 18),
        ("diffgcn", {"layers": [1, 2, 1, 1, 1, 3]}, 9),
        ("pointnet", {}, 0),
        ("mgic_diffgcn", {"group_size": 16}, 6 * 3 + 1),  # 64, 32, 16, and one from 3 to 64
    ],
)
def test_hops_are_counted(name, options, hops):
    assert create_model(name, **options).num_hops == hops


@pytest.mark.parametrize("name", list_models())
def test_repr_shows_graph_and_convolutions(name):
    text = repr(create_model(name, k=5))
    graph = {
        "dgcnn": "dynamic",
        "mgic_dgcnn": "dynamic",
        "dgcnn_cls": "dynamic",
        "mgic_dgcnn_cls": "dynamic",
        "pointnet": "none",
        "random_graph": "random",
    }
    assert f"graph='{graph.get(name, 'static')}', k=5" in text
    conv = "PointwiseConv" if name == "pointnet" else "DiffGCN" if "diff" in name else "EdgeConv"
    assert conv in text
    assert ("MGICMessagePassing" in text) == name.startswith("mgic")


def test_published_dgcnn_has_the_weights_that_are_published_and_its_cycle_fewer_in_stages():
    plain, cycle = (create_model(name, 40) for name in ("dgcnn_cls", "mgic_dgcnn_cls"))
    assert mgic_geo.num_weights(plain) == 1_809_576  # 1.8 million
    stages, grouped = (mgic_geo.num_weights(model.gconvs) for model in (plain, cycle))
    assert (stages, grouped) == (91_520, 31_424)
    assert mgic_geo.num_weights(cycle) - grouped == 1_809_576 - stages


def test_published_dgcnn_is_what_its_definition_says():
    torch.manual_seed(0)
    model = create_model("dgcnn_cls", 3, k=4, width=8).eval()
    pos, batch = torch.rand(30, 3), torch.arange(30) // 12
    x, stages = pos, []
    for (stage,) in model.gconvs:
        table = knn_indices(x, 4, batch)
        pairs = torch.cat([x[:, None].expand(-1, 4, -1), x[table] - x[:, None]], dim=2)
        x = F.leaky_relu(stage.norm((pairs @ stage.conv.lin.weight[0].T).amax(dim=1)), 0.2)
        stages.append(x)
    points = model.mlps[0](torch.cat(stages, dim=1))
    clouds = [points[batch == cloud] for cloud in range(3)]
    pooled = torch.stack([torch.cat([c.amax(dim=0), c.mean(dim=0)]) for c in clouds])
    torch.testing.assert_close(model(pos, batch), model.head(pooled), rtol=1e-4, atol=1e-5)


def test_dropout_stands_in_front_of_the_classifier():
    drop, last = list(create_model("dgcnn", dropout=0.3).head)[-2:]
    assert isinstance(drop, nn.Dropout)
    assert drop.p == 0.3
    assert isinstance(last, nn.Linear)


@pytest.mark.parametrize("name", ["dgcnn", "diffgcn", "mgic_dgcnn", "mgic_diffgcn"])
@pytest.mark.parametrize("graph", ["static", "dynamic", "random"])
def test_every_graph_goes_with_every_convolution(name, graph):
    model = create_model(name, graph=graph, k=3, width=8)
    model(torch.rand(12, 3), torch.arange(12) % 2).sum().backward()


def test_group_and_coarse_size_reach_the_plan():
    model = create_model("mgic_dgcnn", group_size=8, coarse_size=32)
    levels = model.gconvs[1][0].conv.block.levels
    assert [(level.outer, level.groups) for level in levels] == [(64, 8), (32, 1)]


def test_softening_reaches_the_derivatives():
    torch.manual_seed(0)
    pos = torch.rand(12, 3)
    features = []
    for softening in (0.0, 1.0):
        torch.manual_seed(1)
        model = create_model("diffgcn", softening=softening).eval()
        features.append(model.point_features(pos))
    assert not torch.equal(*features)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dgcnn", {"group_size": 1}, "dgcnn does not take group_size; it takes .*width"),
        ("diffgcn", {"depth": 1}, "diffgcn does not take depth; it takes .*width"),
        ("mgic_dgcnn", {"derivatives": 1}, "mgic_dgcnn does not take derivatives; it .*width"),
        ("dgcnn", {"softening": 1}, "dgcnn does not take softening; it takes .*width"),
        ("dgcnn_cls", {"layers": 1}, "dgcnn_cls does not take layers; it takes .*width"),
        ("pointnet", {"graph": 1}, "pointnet does not take graph; it takes .*width"),
        ("random_graph", {"graph": 1}, "random_graph does not take graph; it takes .*width"),
        ("pointnext", {}, "no model 'pointnext'; there are dgcnn, dgcnn_cls, diffgcn, "),
        ("dgcnn", {"graph": "none"}, "dgcnn needs neighbors, got graph='none'"),
        ("mgic_diffgcn", {"graph": "none"}, "mgic_diffgcn needs neighbors, got graph='none'"),
        ("dgcnn", {"graph": "full"}, "one of static, dynamic, random, none, got 'full'"),
        ("dgcnn", {"layers": 0}, r"one or 6 numbers above 0, got \[0, 0, 0, 0, 0, 0\]"),
        ("dgcnn", {"layers": [1, 2]}, r"layers must be one or 6 numbers above 0, got \[1, 2\]"),
        ("dgcnn", {"k": 0}, "k must be at least 1, got 0"),
        ("dgcnn", {"width": 0}, "width must be at least 1, got 0"),
        ("dgcnn", {"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ("mgic_dgcnn", {"group_size": 0}, "group_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_made_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)
