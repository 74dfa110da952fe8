"""The pointwise map that changes the width in front of a cycle."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from mgic_geo.levels import check_counts, group_count
from mgic_geo.nn.grouped_linear import GroupedLinear, grouped_linear


class WidthChange(nn.Module):
    """A grouped linear map from one width to another; nothing at all where they are equal.

    Args:
        in_channels: Channels in; -1 takes them from the first input.
        out_channels: Channels out.
        group_size: Channels per group on the narrower side, :math:`s_g`, adapted by the group rule.

    Shape:
        - ``x``: ``(..., in_channels)``. Returns ``(..., out_channels)``.

    Cost:
        ``in_channels * out_channels / groups + out_channels`` weights, none where the widths agree.

    Raises:
        ValueError: If a width or ``group_size`` is below 1, or the input has another width than the
            first one.

    References:
        Section 3.3, "Changing the channel resolution blocks".

    Example:
        >>> WidthChange(64, 128, group_size=16)
        WidthChange(64, 128, groups=4)
    """

    def __init__(self, in_channels: int, out_channels: int, *, group_size: int) -> None:
        super().__init__()
        check_counts(in_channels=1 if in_channels == -1 else in_channels)
        check_counts(out_channels=out_channels, group_size=group_size)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.group_size, self.groups = group_size, 1
        self.weight: nn.Parameter | UninitializedParameter | None = UninitializedParameter()
        self.bias: nn.Parameter | UninitializedParameter | None = UninitializedParameter()
        if in_channels > 0:
            self._materialize(in_channels)

    @property
    def is_lazy(self) -> bool:
        """Whether the first input is still to come."""
        return self.in_channels < 1

    def _materialize(self, in_channels: int) -> None:
        self.in_channels = in_channels
        if in_channels == self.out_channels:
            self.weight = self.bias = None
            return
        self.groups = group_count(in_channels, self.out_channels, group_size=self.group_size)
        for parameter, shape in (
            (
                self.weight,
                (self.groups, self.out_channels // self.groups, in_channels // self.groups),
            ),
            (self.bias, (self.out_channels,)),
        ):
            assert isinstance(parameter, UninitializedParameter)
            parameter.materialize(shape)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights again, as :class:`GroupedLinear` does."""
        if not self.is_lazy and self.weight is not None:
            GroupedLinear.draw_(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Change the width of ``x``."""
        if self.is_lazy:
            self._materialize(x.size(-1))
        if x.size(-1) != self.in_channels:
            raise ValueError(
                f"expected {self.in_channels} channels, got {x.size(-1)}; where sources and "
                "targets differ, give in_channels as a pair"
            )
        return x if self.weight is None else grouped_linear(x, self.weight, self.bias)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.is_lazy:  # as torch's own lazy modules: the parameter itself, without its values
            destination[prefix + "weight"] = self.weight
            destination[prefix + "bias"] = self.bias
        else:
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        weight = state_dict.get(prefix + "weight")
        if self.is_lazy and not isinstance(weight, UninitializedParameter):
            width = self.out_channels if weight is None else weight.size(0) * weight.size(2)
            self._materialize(width)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Widths and groups."""
        return f"{self.in_channels}, {self.out_channels}, groups={self.groups}"
