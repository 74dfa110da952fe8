"""Counting; the counts are compared with the Cost lines in nn/test_layers.py and test_linear.py."""

import torch

from mgic_geo import multiply_adds


def test_counting_leaves_the_mode_as_it_was():
    layer = torch.nn.Linear(2, 2).train()
    multiply_adds(layer, torch.ones(1, 2))
    assert layer.training
