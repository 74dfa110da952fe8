"""MGICGNN behind PyG's model interface: jumping knowledge, keyword inputs, layer-wise inference."""

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch.testing import assert_close
from torch_geometric.data import Data
from torch_geometric.loader import NeighborLoader
from torch_geometric.utils import k_hop_subgraph

from mgic_geo import MGICGNN, DiffGCNConv, GroupedEdgeConv, edge_gradients

NODES = 30
pytestmark = pytest.mark.filterwarnings("ignore:Using 'NeighborSampler' without a 'pyg-lib'")


@pytest.fixture
def graph() -> Data:
    """A ring with a few chords, so that a subgraph of some hops is not the whole graph."""
    generator = torch.Generator().manual_seed(0)
    ring = torch.arange(NODES)
    edge_index = torch.stack([ring, (ring + 1) % NODES])
    edge_index = torch.cat([edge_index, torch.tensor([[0, 7], [3, 9]])], dim=1)
    return Data(x=torch.randn(NODES, 16, generator=generator), edge_index=edge_index)


def model(conv=pyg.SAGEConv, **options) -> MGICGNN:
    torch.manual_seed(0)
    options = {"hidden_channels": 32, "num_layers": 2, "out_channels": 4} | options
    return MGICGNN(options.pop("in_channels", 16), conv=conv, group_size=8, **options)


class WholeNeighborhoods(NeighborLoader):
    """Samples whole neighborhoods in Python; PyG's own sampler needs pyg-lib."""

    def __iter__(self):
        hops = len(self.node_sampler.num_neighbors)
        for seeds in torch.arange(self.data.num_nodes).split(self.batch_size):
            nodes = k_hop_subgraph(seeds, hops, self.data.edge_index)[0]
            n_id = torch.cat([seeds, nodes[~torch.isin(nodes, seeds)]])
            # edges into the outermost nodes are not sampled
            inner = k_hop_subgraph(seeds, hops - 1, self.data.edge_index)[0]
            kept = torch.isin(self.data.edge_index[1], inner)
            place = torch.full((self.data.num_nodes,), -1)
            place[n_id] = torch.arange(n_id.numel())
            edge_index = place[self.data.edge_index[:, kept]]
            yield Data(edge_index=edge_index, n_id=n_id, batch_size=seeds.numel())


def loader(graph: Data, hops: int, **options) -> WholeNeighborhoods:
    return WholeNeighborhoods(graph, num_neighbors=[-1] * hops, batch_size=4, **options)


@pytest.mark.parametrize("jk", [None, "last", "cat", "max", "lstm"])
def test_jumping_knowledge_gives_every_parameter_a_gradient(jk, graph):
    network = model(jk=jk)
    out = network(graph.x, graph.edge_index)
    assert out.shape == (NODES, 4)
    out.square().sum().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    assert not missing


def test_without_out_channels_the_output_is_as_wide_as_the_hidden_layers(graph):
    assert model(out_channels=None)(graph.x, graph.edge_index).shape == (NODES, 32)


def test_a_lazy_stack_takes_its_width_from_the_first_input(graph):
    lazy = model(in_channels=-1)
    assert lazy(graph.x, graph.edge_index).shape == (NODES, 4)
    assert {k: v.shape for k, v in lazy.state_dict().items()} == {
        k: v.shape for k, v in model().state_dict().items()
    }


def test_num_hops_is_how_far_an_output_sees():
    path = torch.stack([torch.arange(19), torch.arange(1, 20)])
    network = model(hidden_channels=16, out_channels=None).double().eval()
    x = torch.randn(20, 16, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(lambda z: network(z, path)[-1], x)
    reached = jacobian.abs().sum(dim=(0, 2)).nonzero().min()
    assert 19 - int(reached) == network.num_hops == 4


def test_edge_weights_and_attributes_reach_the_layers(graph):
    weight = torch.rand(graph.num_edges)
    for conv, name, value in (
        (pyg.GCNConv, "edge_weight", weight),
        (lambda i, o: pyg.GATConv(i, o, edge_dim=1), "edge_attr", weight.unsqueeze(1)),
        (DiffGCNConv, "edge_attr", edge_gradients(torch.rand(NODES, 3), graph.edge_index)),
    ):
        network = model(conv).eval()
        first = network(graph.x, graph.edge_index, **{name: value})
        second = network(graph.x, graph.edge_index, **{name: value.roll(1, 0)})
        assert (first - second).abs().max() > 1e-5


def test_norms_activations_and_dropout_are_those_that_were_asked_for():
    network = model(norm="layer_norm", act="elu", dropout=0.25, level_norm=None, level_act="gelu")
    kinds = {type(module) for module in network.modules()}
    assert kinds >= {pyg.LayerNorm, nn.ELU, nn.GELU}
    assert not kinds & {pyg.BatchNorm, nn.ReLU}
    assert network.dropout.p == 0.25


@pytest.mark.parametrize("options", [{}, {"jk": "last"}, {"num_layers": 1}, {"in_channels": 3}])
@pytest.mark.parametrize("conv", [pyg.SAGEConv, GroupedEdgeConv])
@pytest.mark.parametrize("cache", [False, True])
def test_inference_by_layers_equals_a_run_on_the_whole_graph(cache, conv, options, graph):
    network = model(conv, **options).eval()
    graph.x = graph.x[:, : network.in_channels]
    out = network.inference(loader(graph, network.num_layer_hops), cache=cache)
    assert_close(out, network(graph.x, graph.edge_index))


def test_inference_is_wrong_with_fewer_hops_and_therefore_refused(graph):
    network = model().eval()
    hops = network.num_layer_hops
    message = rf"num_neighbors=\[-1\] \* {hops}, as a layer reaches {hops} hops, got \[-1\]"
    with pytest.raises(ValueError, match=message):
        network.inference(loader(graph, 1))
    with pytest.raises(ValueError, match=rf"got \[-1{', 5' * (hops - 1)}\]"):
        network.inference(WholeNeighborhoods(graph, num_neighbors=[-1] + [5] * (hops - 1)))


def test_inference_needs_evaluation_and_layers_that_follow_one_another(graph):
    with pytest.raises(ValueError, match=r"eval\(\)"):
        model().inference(loader(graph, 3))
    with pytest.raises(ValueError, match="all 30 nodes, got 5"):
        model().eval().inference(loader(graph, 3, input_nodes=torch.arange(5)))
    with pytest.raises(ValueError, match="jk must be None or 'last' for inference, got 'cat'"):
        model(jk="cat").eval().inference(loader(graph, 3))
