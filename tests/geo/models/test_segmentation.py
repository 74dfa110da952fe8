import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mgic_geo import PointCloudSegmenter, create_model, create_segmenter, list_models
from tests.clouds import clouds, small

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("name", list_models())
def test_every_backbone_scores_points_and_trains(name):
    model, (pos, batch) = small(name, create_segmenter), clouds(8, 20)
    scores = model(pos, batch)
    assert scores.shape == (28, 5)
    scores.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key


def test_scores_are_a_map_of_the_point_and_of_the_whole():
    model, (pos, batch) = small("mgic_diffgcn", create_segmenter).eval(), clouds(9, 12)
    x = model.backbone.point_features(pos, batch)
    whole = torch.stack([x[batch == cloud].amax(0) for cloud in range(2)])
    expected = model.head(torch.cat([x, whole[batch]], dim=1))
    assert_close(model(pos, batch), expected, **CLOSE)


def test_the_head_of_the_classifier_is_gone():
    backbone = create_model("pointnet", width=8)
    model = PointCloudSegmenter(backbone, 5)
    assert not list(backbone.head.parameters())
    linears = [part for part in model.head.modules() if isinstance(part, nn.Linear)]
    assert [part.weight.numel() for part in linears] == [2 * 8 * 8, 8 * 8, 8 * 5]


def test_what_is_out_of_range_is_said():
    with pytest.raises(ValueError, match="num_parts must be at least 1, got 0"):
        create_segmenter("dgcnn", 0)
    with pytest.raises(ValueError, match="no model 'dgcn'"):
        create_segmenter("dgcn", 3)
