"""Points numbered along a curve."""

import pytest
import torch
from torch.testing import assert_close

from mgic_geo import create_model, knn_indices
from mgic_geo.numbering import order_along_curve, renumber

SIZES = (300, 7, 41)


def clouds():
    generator = torch.Generator().manual_seed(0)
    batch = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    mixed = torch.randperm(sum(SIZES), generator=generator)
    return torch.rand(sum(SIZES), 3, generator=generator), batch[mixed]


def test_every_point_has_a_number_and_clouds_stay_together():
    pos, batch = clouds()
    order = order_along_curve(pos, batch)
    assert order.sort().values.tolist() == list(range(sum(SIZES)))
    assert batch[order].diff().min() >= 0


def test_neighbors_in_number_are_near_in_space():
    pos, _ = clouds()
    step = pos.diff(dim=0).norm(dim=1).mean()
    assert pos[order_along_curve(pos)].diff(dim=0).norm(dim=1).mean() < step / 3


@pytest.mark.parametrize("pos", [torch.zeros(5, 3), torch.full((2, 3), 1e30), torch.eye(3) * 1e-40])
def test_any_extent_will_do(pos):
    assert order_along_curve(pos).sort().values.tolist() == list(range(len(pos)))


def test_renumbered_neighbors_are_the_same_points():
    pos, batch = clouds()
    neighbors, order = knn_indices(pos, 9, batch), order_along_curve(pos, batch)
    assert (neighbors < 0).any()  # of the cloud of seven
    table = renumber(neighbors, order)
    before, after = neighbors[order], table
    assert torch.equal(before < 0, after < 0)
    assert torch.equal(pos[before[before >= 0]], pos[order][after[after >= 0]])


@pytest.mark.parametrize("name", ["mgic_diffgcn", "mgic_dgcnn"])
def test_numbers_do_not_change_what_a_network_says(name):
    torch.manual_seed(0)
    model = create_model(name, 4, width=16, graph="static").eval()
    pos, batch = clouds()
    features = model.point_features(pos, batch)
    pooled = torch.stack([features[batch == cloud].amax(0) for cloud in range(len(SIZES))])
    assert_close(model(pos, batch), model.head(pooled), rtol=1e-4, atol=1e-5)
