import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mgic_geo import PointCloudSegmenter, create_model, create_segmenter, list_models

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def small(name: str = "mgic_diffgcn") -> PointCloudSegmenter:
    torch.manual_seed(0)
    group_size = {"group_size": 4} if name.startswith("mgic") else {}
    return create_segmenter(name, 5, k=4, width=8, **group_size).double()


def clouds(*sizes: int):
    pos = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(1)).double()
    return pos, torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


@pytest.mark.parametrize("name", list_models())
def test_every_backbone_scores_points_and_trains(name):
    model, (pos, batch) = small(name), clouds(8, 20)
    scores = model(pos, batch)
    assert scores.shape == (28, 5)
    scores.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key


def test_scores_are_a_map_of_the_point_and_of_the_whole():
    model, (pos, batch) = small().eval(), clouds(9, 12)
    x = model.backbone.point_features(pos, batch)
    whole = torch.stack([x[batch == cloud].amax(0) for cloud in range(2)])
    expected = model.head(torch.cat([x, whole[batch]], dim=1))
    assert_close(model(pos, batch), expected, **CLOSE)


def test_batch_of_clouds_equals_a_run_for_each():
    model, (pos, batch) = small().eval(), clouds(12, 1, 9)
    apart = torch.cat([model(pos[batch == cloud]) for cloud in range(3)])
    assert_close(model(pos, batch), apart, **CLOSE)


def test_the_head_of_the_classifier_is_gone():
    backbone = create_model("pointnet", width=8)
    model = PointCloudSegmenter(backbone, 5)
    assert not list(backbone.head.parameters())
    linears = [part for part in model.head.modules() if isinstance(part, nn.Linear)]
    assert [part.weight.numel() for part in linears] == [2 * 8 * 8, 8 * 8, 8 * 5]


@pytest.mark.parametrize(
    ("name", "num_parts", "match"),
    [
        ("dgcnn", 0, "num_parts must be at least 1, got 0"),
        ("dgcn", 3, "no model 'dgcn'"),
    ],
)
def test_wrong_arguments_are_named(name, num_parts, match):
    with pytest.raises(ValueError, match=match):
        create_segmenter(name, num_parts)
