import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.nn import EdgeConv

from mgic_geo import GroupedEdgeConv, MGICMessagePassing
from tests import oracles

pytestmark = pytest.mark.usefixtures("kernels")

# (in_channels, out_channels, groups)
SHAPES = [(8, 12, 1), (8, 12, 2), (8, 12, 4), (6, 6, 6), (6, 3, 3), (512, 64, 8)]
# unsorted, a self-loop, an edge that is there twice; node 5 has no neighbors, node 4 is nobody's
EDGES = torch.tensor([[3, 0, 1, 3, 2, 0, 5, 1], [2, 1, 0, 0, 2, 1, 3, 4]])
NUM_NODES = 6


def layer_and_nodes(shape=(8, 12, 2), **options) -> tuple[GroupedEdgeConv, Tensor]:
    torch.manual_seed(0)
    in_channels, out_channels, groups = shape
    conv = GroupedEdgeConv(in_channels, out_channels, groups=groups, **options).double()
    return conv, torch.randn(NUM_NODES, in_channels, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_pyg_edge_conv_group_by_group_with_its_gradients(shape, bias, dtype, tolerance):
    conv, x = layer_and_nodes(shape, bias=bias)
    conv, inputs = conv.to(dtype), (x.to(dtype).requires_grad_(), *conv.to(dtype).parameters())
    y = conv(inputs[0], EDGES)
    expected = oracles.edge_conv(conv.lin.weight, conv.lin.bias, inputs[0], EDGES)
    assert_close(y, expected, rtol=tolerance, atol=tolerance)
    grads, slopes = (torch.autograd.grad(z.square().sum(), inputs) for z in (y, expected))
    for grad, slope in zip(grads, slopes, strict=True):
        assert_close(grad, slope, rtol=tolerance, atol=tolerance * slope.abs().max().item())


def test_one_group_takes_the_weights_of_pyg_edge_conv_as_they_are():
    conv, x = layer_and_nodes((8, 12, 1))
    pyg = EdgeConv(torch.nn.Linear(16, 12)).double()
    conv.load_state_dict({"lin.weight": pyg.nn.weight[None], "lin.bias": pyg.nn.bias})
    assert_close(conv(x, EDGES), pyg(x, EDGES), rtol=1e-12, atol=1e-12)


def explain(conv: torch.nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    """How much every edge counts, by PyG's explainer."""
    torch.manual_seed(0)
    explainer = Explainer(
        conv.eval(),
        GNNExplainer(epochs=5),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )
    return explainer(x, edges).edge_mask


def test_an_explanation_is_that_of_pyg_edge_conv():
    conv, x = layer_and_nodes((8, 12, 1))
    pyg = EdgeConv(torch.nn.Linear(16, 12)).double()
    conv.load_state_dict({"lin.weight": pyg.nn.weight[None], "lin.bias": pyg.nn.bias})
    found, before = explain(conv, x, EDGES), conv(x, EDGES)
    assert_close(found, explain(pyg, x, EDGES), rtol=1e-6, atol=1e-6)
    assert found.unique().numel() > 2
    assert_close(conv(x, EDGES), before, rtol=0, atol=0)  # the mask is gone


def test_an_explainer_sees_the_edges_of_every_level():
    cycle = MGICMessagePassing(8, 8, GroupedEdgeConv, group_size=4).double()
    _, x = layer_and_nodes()
    assert explain(cycle, x, EDGES).unique().numel() > 2


@pytest.mark.parametrize("what", ["message", "aggregate", "propagate"])
@pytest.mark.parametrize("when", ["_forward_pre_hook", "_forward_hook"])
def test_hooks_of_pyg_are_called(what, when):
    conv, x = layer_and_nodes()
    y, calls = conv(x, EDGES), []
    handle = getattr(conv, f"register_{what}{when}")(lambda *_: calls.append(what))
    assert_close(conv(x, EDGES), y, rtol=1e-12, atol=1e-12)
    assert calls == [what]
    handle.remove()
    conv(x, EDGES)
    assert calls == [what]


def test_a_message_of_a_subclass_is_what_edges_say():
    class Doubled(GroupedEdgeConv):
        def message(self, x_i: Tensor, x_j: Tensor) -> Tensor:
            return 2 * super().message(x_i, x_j)

    conv, x = layer_and_nodes()
    doubled = Doubled(8, 12, groups=2).double()
    doubled.load_state_dict(conv.state_dict())
    assert_close(doubled(x, EDGES), 2 * conv(x, EDGES), rtol=1e-12, atol=1e-12)


def test_an_edge_says_source_minus_target_and_not_the_reverse():
    conv = GroupedEdgeConv(1, 2, bias=False)
    conv.lin.weight.data = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # rows: x_i, x_j - x_i
    x = torch.tensor([[1.0], [5.0], [2.0]])
    y = conv(x, torch.tensor([[1, 2, 0], [0, 0, 1]]))
    # node 0 hears 5 - 1 and 2 - 1, node 1 hears 1 - 5, node 2 nobody
    assert_close(y, torch.tensor([[1.0, 4.0], [5.0, -4.0], [0.0, 0.0]]))


@pytest.mark.parametrize("groups", [1, 2])
def test_bipartite_pair_equals_pyg_edge_conv(groups):
    conv, source = layer_and_nodes((8, 12, groups))
    target = torch.randn(4, 8, dtype=torch.float64)
    edges = torch.tensor([[5, 4, 0, 5], [0, 2, 2, 1]])
    expected = oracles.edge_conv(conv.lin.weight, conv.lin.bias, (source, target), edges)
    assert expected.shape == (4, 12)
    assert_close(conv((source, target), edges), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_propagating_the_message_reaches_what_forward_does(shape):
    conv, x = layer_and_nodes(shape)
    assert_close(conv.propagate(EDGES, x=x), conv(x, EDGES), rtol=1e-12, atol=1e-12)


def test_message_of_no_edges_is_empty():
    conv, x = layer_and_nodes()
    assert conv.message(x[:0], x[:0]).shape == (0, 12)


@pytest.mark.fault(30)
@pytest.mark.parametrize("num_nodes", [0, 3])
def test_graph_without_edges_gives_0(num_nodes):
    conv, _ = layer_and_nodes()
    none = torch.zeros(2, 0, dtype=torch.long)
    y = conv(torch.randn(num_nodes, 8).double(), none)
    assert_close(y, torch.zeros(num_nodes, 12, dtype=torch.float64))
