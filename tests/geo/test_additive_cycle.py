import math

import oracles
import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch.testing import assert_close

from mgic_geo import (
    MGICGNN,
    DiffGCNConv,
    GroupedEdgeConv,
    GroupedLinear,
    MGICBlock,
    MGICLinear,
    MGICMessagePassing,
    Residual,
    StructuredLinear,
    convert,
    create_model,
    explain,
    fuse,
    level_plan,
    num_weights,
    transfer,
)
from mgic_geo.nn import structured_linear
from tests.neighbor_clouds import normal

kernels = pytest.mark.usefixtures("kernels")

EDGES = torch.tensor([[0, 1, 2, 3, 4, 2], [1, 2, 3, 4, 0, 0]])


def linear_layers(level):
    return GroupedLinear(level.outer, level.outer, groups=level.groups)


def make_block(channels, make_layer, **options):
    sizes = {"group_size": 4, "coarse_size": 4, "cycle": "additive", **options}
    return MGICBlock(channels, make_layer, transfer, **sizes).double()


@pytest.mark.parametrize("channels", [16, 24, 40, 6])
def test_block_is_the_sum_over_its_levels(channels):
    block = make_block(channels, linear_layers)
    x = torch.randn(7, channels, dtype=torch.float64)
    expected = oracles.additive_cycle(
        x, block.layers, oracles.matrices(block.restrict), oracles.matrices(block.prolong)
    )
    assert_close(block(x), expected)
    assert_close(block.change(x), expected - x)


def test_branches_are_summed_and_the_features_added_once():
    block = make_block(16, lambda level: Residual(linear_layers(level)))
    x = torch.randn(7, 16, dtype=torch.float64)
    branches = [layer.branch for layer in block.layers]
    change = oracles.additive_cycle(
        x, branches, oracles.matrices(block.restrict), oracles.matrices(block.prolong)
    )
    assert_close(block(x), x + change)
    assert_close(block.change(x), change)


def test_branches_of_zero_leave_the_features_bit_for_bit():
    block = make_block(16, lambda level: Residual(linear_layers(level)))
    for layer in block.layers:
        nn.init.zeros_(layer.branch.weight)
        nn.init.zeros_(layer.branch.bias)
    x = torch.randn(7, 16, dtype=torch.float64)
    assert_close(block(x), x, rtol=0, atol=0)


def test_norms_after_the_prolongations_are_kept():
    block = make_block(16, linear_layers, make_norm=nn.BatchNorm1d).eval()
    x = torch.randn(7, 16, dtype=torch.float64)
    for norm in block.norms:
        nn.init.zeros_(norm.weight)
    assert_close(block(x), block.layers[0](x))


def test_an_unknown_cycle_is_refused():
    with pytest.raises(ValueError, match="cycle must be one of multiplicative, additive, got 'v'"):
        make_block(16, linear_layers, cycle="v")
    with pytest.raises(ValueError, match="cycle must be one of"):
        MGICMessagePassing(16, 16, pyg.SAGEConv, cycle="v")


@pytest.mark.parametrize("widths", [(16, 16), (32, 16), (16, 48), (112, 16), (30, 20), (7, 16)])
def test_structured_matrix_equals_its_levels(widths, monkeypatch):
    layer = StructuredLinear(*widths, group_size=4).double()
    width, x = math.gcd(*widths), torch.randn(5, widths[0], dtype=torch.float64)
    rows = []
    for number in range(widths[1] // width):  # part by part, by the definition

        def level(layer, number=number):
            columns = layer.in_channels // layer.groups
            own = layer.weight.unflatten(1, (widths[1] // width, -1))[:, number]

            def apply(x):
                x = x.unflatten(-1, (layer.groups, -1)).transpose(1, 2).reshape(-1, columns)
                x = x.unflatten(0, (-1, layer.groups))
                return torch.einsum("ngi,goi->ngo", x, own).flatten(1)

            return apply

        total, parts, ups = 0, x.unflatten(1, (-1, width)), oracles.matrices(layer.block.prolong)
        downs = [torch.eye(width, dtype=x.dtype), *oracles.matrices(layer.block.restrict)]
        for index, part in enumerate(layer.block.layers):
            parts = parts @ downs[index].T
            result = level(part)(parts)
            for up in reversed(ups[:index]):
                result = result @ up.T
            total = total + result
        rows.append(total)
    expected = torch.cat(rows, 1) + layer.bias
    assert_close(layer(x), expected)
    assert_close(x @ layer.weight[0].T + layer.bias, expected)
    monkeypatch.setattr(structured_linear, "MULTIPLIED_OUT", 0)
    assert_close(layer(x), expected)


@pytest.mark.parametrize(("parts_in", "parts_out"), [(1, 1), (2, 1), (7, 1), (1, 3)])
def test_weights_are_those_of_the_cost_line(parts_in, parts_out):
    plan = level_plan(64, group_size=8, coarse_size=16)
    *fine, coarsest = plan
    both = parts_in * parts_out
    count = sum(both * level.outer**2 // level.groups for level in plan)
    count += sum(level.outer**2 // level.groups for level in fine)
    layer = StructuredLinear(
        64 * parts_in, 64 * parts_out, group_size=8, coarse_size=16, bias=False
    )
    assert num_weights(layer) == count
    assert coarsest.groups == 1


def test_structured_gradients_are_right():
    layer = StructuredLinear(16, 8, group_size=2).double()
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)

    def run(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    names = [name for name, _ in layer.named_parameters()]
    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def test_wrong_widths_of_a_structured_map_are_refused():
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        StructuredLinear(0, 4, group_size=2)
    with pytest.raises(ValueError, match="x must have 8 channels last"):
        StructuredLinear(8, 4, group_size=2)(torch.ones(3, 4))


CONVS = [
    (pyg.GCNConv, {}),
    (pyg.SAGEConv, {}),
    (pyg.GATConv, {}),
    (pyg.TransformerConv, {}),
    (pyg.ChebConv, {"K": 2}),
    (GroupedEdgeConv, {}),
]


@pytest.mark.parametrize(("conv", "options"), CONVS)
def test_convolution_equals_one_with_the_multiplied_maps(conv, options):
    layer = MGICMessagePassing(32, 32, conv, cycle="additive", **options).double()
    plain = conv(32, 32, **options).double()
    plain.load_state_dict(
        {
            name: tensor
            for name, tensor in layer.block.state_dict().items()
            if ".block." not in name and not name.endswith("weight")
        },
        strict=False,
    )
    swapped = 0
    for name, module in layer.block.named_modules():
        if isinstance(module, StructuredLinear):
            target = plain.get_submodule(name).weight
            target.data.copy_(module.weight.view_as(target))
            swapped += 1
    assert swapped
    x = torch.randn(5, 32, dtype=torch.float64)
    assert_close(layer(x, EDGES), plain(x, EDGES))
    assert layer.num_hops == 1
    assert num_weights(layer) < num_weights(plain)


def test_layer_takes_sources_and_targets():
    layer = MGICMessagePassing((32, 64), 64, pyg.SAGEConv, cycle="additive")
    x = torch.randn(5, 32), torch.randn(4, 64)
    edges = torch.tensor([[0, 4, 2], [3, 0, 1]])
    assert layer(x, edges).shape == (4, 64)


def test_narrow_maps_stay_dense():
    layer = MGICMessagePassing(3, 64, GroupedEdgeConv, cycle="additive")
    assert layer.levels == ()
    assert num_weights(layer) == 6 * 64 + 64


def test_what_has_no_linear_map_is_refused():
    with pytest.raises(ValueError, match="made of linear maps, ARMAConv has none"):
        MGICMessagePassing(32, 32, pyg.ARMAConv, cycle="additive")
    with pytest.raises(ValueError, match="in_channels must be known for an additive cycle, got -1"):
        MGICMessagePassing(-1, 32, pyg.SAGEConv, cycle="additive")


@kernels
@pytest.mark.parametrize(("name", "weights"), [("mgic_dgcnn", 37_706), ("mgic_diffgcn", 64_266)])
def test_fused_networks_run_what_their_dense_twins_run(name, weights):
    torch.manual_seed(0)
    inputs = normal(60, 3), torch.arange(60) // 20
    model = create_model(name, cycle="additive", coarse_size=16, k=4)
    assert (num_weights(model), model.num_hops) == (weights, 6)
    model(*inputs)
    fused, twin = fuse(model), fuse(create_model(name.removeprefix("mgic_"), k=4))
    assert not any(isinstance(module, StructuredLinear) for module in fused.modules())
    assert num_weights(fused) == num_weights(twin)
    assert explain(fused, *inputs).calls == explain(twin, *inputs).calls
    assert_close(fused(*inputs), model.eval()(*inputs), rtol=1e-4, atol=1e-4)


@kernels
@pytest.mark.parametrize("cycle", ["multiplicative", "additive"])
@pytest.mark.parametrize("make_norm", [None, nn.BatchNorm1d])
def test_fused_linear_cycles_are_one_map(cycle, make_norm):
    layer = MGICLinear(32, group_size=8, cycle=cycle, make_norm=make_norm)
    x = torch.randn(50, 32)
    model = nn.Sequential(layer, nn.ReLU())
    model(x)
    fused = fuse(model)
    assert isinstance(fused[0], GroupedLinear)
    assert_close(fused(x), model.eval()(x), rtol=1e-5, atol=1e-5)


def test_cycles_with_activations_are_not_multiplied_out():
    assert isinstance(fuse(nn.Sequential(MGICLinear(32, make_act=nn.ReLU)))[0], MGICLinear)


def test_the_widest_that_are_multiplied_out_are_those_that_the_docs_name():
    assert isinstance(fuse(nn.Sequential(MGICLinear(256, group_size=8)))[0], GroupedLinear)
    assert isinstance(fuse(nn.Sequential(MGICLinear(264, group_size=8)))[0], MGICLinear)
    assert "up to a width of 256" in " ".join(fuse.__doc__.split())


def test_one_map_under_two_names_stays_one():
    layer = MGICMessagePassing(32, 32, pyg.GATv2Conv, cycle="additive", share_weights=True)
    assert isinstance(layer.block.lin_l, StructuredLinear)
    assert layer.block.lin_l is layer.block.lin_r


def test_user_networks_are_converted():
    model = pyg.GraphSAGE(16, 64, num_layers=3, out_channels=4)
    new, report = convert(model, group_size=8, cycle="additive")
    assert new.convs[1].num_hops == 1
    assert num_weights(new) == report.weights_after
    assert new(torch.rand(5, 16), EDGES).shape == (5, 4)


def test_stack_passes_the_cycle_on_and_knows_its_convolution():
    model = MGICGNN(16, 32, 2, 4, conv=pyg.GCNConv, group_size=8, cycle="additive")
    assert model.num_hops == 2
    assert model.supports_edge_weight
    assert model(torch.rand(5, 16), EDGES, edge_weight=torch.rand(6)).shape == (5, 4)


def test_state_comes_back_and_is_drawn_again():
    layer = MGICMessagePassing(32, 32, DiffGCNConv, cycle="additive")
    other = MGICMessagePassing(32, 32, DiffGCNConv, cycle="additive")
    other.load_state_dict(layer.state_dict())
    assert_close(other.block.lin.weight, layer.block.lin.weight, rtol=0, atol=0)
    before = layer.block.lin.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.block.lin.weight, before)
    assert "cycle='additive', conv=DiffGCNConv(32, 32, groups=1)" in repr(layer)


def test_convolutions_without_linear_maps_are_left():
    model = nn.Sequential(pyg.ARMAConv(64, 64), pyg.SAGEConv(64, 64))
    _, report = convert(model, group_size=8, cycle="additive")
    (left,) = report.left
    assert (left.name, left.reason) == ("0", "is not made of linear maps")
