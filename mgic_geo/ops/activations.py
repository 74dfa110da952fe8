"""Activations that the kernels apply on the way."""

from __future__ import annotations

from torch import nn

# numbered as in activations.h
ACTIVATIONS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.Hardswish: 2}
