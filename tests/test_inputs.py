"""What people give by mistake is named in the message, with what would be accepted."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, SAGEConv
from torchvision.models import resnet18

import mgic_geo
import mgic_vision
from mgic_geo import MGICLinear, MGICMessagePassing, convert, create_model
from mgic_vision import create_model as images

EDGES = torch.tensor([[0, 1, 2], [1, 2, 0]])
X = torch.rand(3, 32)


def cloud(pos):
    return create_model("pointnet").eval()(pos)


def image(x):
    return images("mgic_resnet56", 10, depth=8).eval()(x)


def layer(x=X, edges=EDGES, conv=GCNConv, **options):
    return MGICMessagePassing(32, 32, conv, **options)(x, edges)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cloud(np.zeros((9, 3))), TypeError, r"pos must be a tensor, got ndarray; .*numpy"),
        (lambda: cloud(Data(pos=X)), TypeError, "pos must be a tensor, got Data; pass its fields"),
        (lambda: cloud(torch.rand(9, 3, dtype=torch.double)), TypeError, "pos is torch.float64"),
        (lambda: image(np.zeros((1, 3, 9, 9))), TypeError, "input must be a tensor, got ndarray"),
        (lambda: image(Image.new("RGB", (9, 9))), TypeError, "got Image; .*to_tensor"),
        (lambda: layer(x=X.numpy()), TypeError, "x must be a tensor, got ndarray"),
        (lambda: layer(edges=EDGES.numpy()), TypeError, "edge_index must be a tensor"),
        (lambda: layer(edges=EDGES.t()), ValueError, r"got \(3, 2\) of torch.int64; edge_index.t"),
        (lambda: layer(edges=torch.eye(3)), ValueError, "dense_to_sparse reads a dense adjacency"),
        (lambda: layer(conv="gcnn"), ValueError, "no convolution 'gcnn'; did you mean 'gcn'"),
        (lambda: layer(conv=GCNConv(32, 32)), ValueError, "conv must be a class such as GCNConv"),
        (lambda: layer(conv=3), ValueError, "conv must be a class or a name such as 'GCNConv'"),
        (lambda: layer(group_size=8.0), ValueError, "group_size must be a whole number, got 8.0"),
        (lambda: MGICLinear("64"), ValueError, "channels must be a whole number, got '64'"),
        (lambda: create_model("dgcnn", k=3.5), ValueError, "k must be a whole number, got 3.5"),
        (lambda: create_model("mgic_difgcn"), ValueError, "did you mean 'mgic_diffgcn'"),
        (lambda: images("mgic_resnet65"), ValueError, "did you mean 'mgic_resnet56'"),
        (lambda: images("resnet56", in_chans=0), ValueError, "in_chans must be at least 1, got 0"),
        (lambda: convert(GCNConv, group_size=8), TypeError, "which makes one: call it first"),
        (lambda: mgic_vision.convert(resnet18, group_size=8), TypeError, "call it first"),
        (lambda: mgic_vision.convert("resnet18", group_size=8), TypeError, "got 'resnet18'"),
        (lambda: mgic_geo.fuse(GCNConv), TypeError, "model must be a module"),
    ],
)
def test_a_mistake_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", ["sage", "SAGE", "SAGEConv", "sage_conv"])
def test_convolutions_go_by_their_names(name):
    assert isinstance(MGICMessagePassing(32, 32, name).plain_conv, SAGEConv)


def test_linear_changes_the_width_by_a_grouped_map_and_fuses_to_one_matrix():
    torch.manual_seed(0)
    change = MGICLinear(64, 32, group_size=8).double()
    x = torch.rand(5, 64, dtype=torch.double)
    assert_close(change(x), change.block(change.width_change(x)))
    assert change(x).shape == (5, 32)
    assert change.width_change.groups == 4
    network = torch.nn.Sequential(change)
    fused = mgic_geo.fuse(network)
    assert_close(fused(x), network(x))
    assert fused[0].weight.shape == (1, 32, 64)


def test_one_version():
    assert mgic_geo.__version__ == mgic_vision.__version__
