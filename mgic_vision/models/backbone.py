"""A network up to its head, under timm's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from mgic_geo.levels import check_counts
from mgic_geo.ops.inputs import check_tensors
from mgic_vision.models.features import FeatureInfo, Indices, take_indices
from mgic_vision.models.stages import Stages

# as timm, torchvision and most others prepare images
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_SHARE, SMALLEST_TO_CROP = 224 / 256, 64


@fx.wrap
def check_images(x: Tensor, in_chans: int, dims: int) -> Tensor:
    """Return the input of a network, if it is one; ``torch.fx`` records one call.

    Args:
        x: The input.
        in_chans: Channels it must have.
        dims: Its axes beside that of the batch.

    Raises:
        ValueError: It has another number of axes or channels or is not floating point.
    """
    check_tensors(input=x)
    if x.dim() != dims + 1 or x.size(1) != in_chans:
        expected = ", ".join(["B", str(in_chans), *"HW"[: dims - 1]])
        raise ValueError(f"input must be ({expected}), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"input must be floating point, got {x.dtype}")
    return x


class Backbone(nn.Module):
    """A network without its head, under timm's names; gives features of its strides.

    Weights lie in channels-last order, in which grouped convolutions are fast on a CPU, and the
    features follow them whatever the order of the input; ``.to(memory_format=...)`` changes that.
    PyTorch's ``fully_shard``, and what prunes single weights, want ``torch.contiguous_format``.

    Args:
        stem: From the input to the first stage.
        stages: The blocks.
        final: Follows the last stage; its result stands for that stage's features.
        num_features: Channels that ``final`` gives; ``None`` where it does not change them.
        input_size: Shape of one input in the paper; only its number of channels binds.

    Shape:
        - ``x``: ``(B, *input_size)``, or any other height and width.
        - Returns a list of ``(B, C_4, H / 4, W / 4)`` and the like, from the finest to the
          coarsest, or those that :meth:`prune_intermediate_layers` was asked for.

    Raises:
        ValueError: When called, if the input has another number of axes or channels or is not
            floating point.

    Example:
        >>> from mgic_vision import create_model
        >>> backbone = create_model("mgic_mobilenetv3", features_only=True).eval()
        >>> for name, x in backbone.features(torch.rand(1, 3, 64, 96)).items():
        ...     print(name, tuple(x.shape))
        s2 (1, 16, 32, 48)
        s4 (1, 24, 16, 24)
        s8 (1, 40, 8, 12)
        s16 (1, 112, 4, 6)
        s32 (1, 960, 2, 3)
        >>> backbone.feature_info.channels(), backbone.feature_info.module_name(0)
        ([16, 24, 40, 112, 960], 'stages.s2')
        >>> some = create_model("mgic_mobilenetv3", features_only=True, out_indices=(1, -2))
        >>> [tuple(x.shape) for x in some.eval()(torch.rand(1, 3, 64, 96))]
        [(1, 24, 16, 24), (1, 112, 4, 6)]
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Stages,
        final: nn.Module | None = None,
        *,
        num_features: int | None = None,
        input_size: tuple[int, ...] = (3, 224, 224),
    ) -> None:
        super().__init__()
        self.stem, self.stages = stem, stages
        self.final = nn.Identity() if final is None else final
        self.num_features = stages.channels if num_features is None else num_features
        self.input_size, self.in_chans = input_size, input_size[0]
        check_counts(in_chans=self.in_chans)
        self.grad_checkpointing, self.drop_path_rate = False, 0.0
        rows: list[dict[str, Any]] = [
            {
                "name": name,
                "num_chs": width,
                "reduction": stages.strides[name],
                "module": f"stages.{name}",
            }
            for name, width in stages.widths.items()
        ]
        rows[-1] |= {"num_chs": self.num_features, "module": "final"}
        self.feature_info = FeatureInfo(rows)
        self.pretrained_cfg = self._describe()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _describe(self) -> dict[str, Any]:
        convs = (name for name, m in self.named_modules() if isinstance(m, nn.Conv2d))
        sides, reduction = self.input_size[1:], self.feature_info[-1]["reduction"]
        return {
            "url": "",
            "num_classes": 0,
            "input_size": self.input_size,
            "pool_size": tuple(-(-side // reduction) for side in sides) or (1, 1),
            "crop_pct": 1.0 if max(sides, default=0) < SMALLEST_TO_CROP else CROP_SHARE,
            "interpolation": "bilinear",
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "first_conv": next(convs, ""),
            "classifier": "",
        }

    @property
    def default_cfg(self) -> dict[str, Any]:
        """``pretrained_cfg`` by its older name: what images the network takes, as timm says it."""
        return self.pretrained_cfg

    def take_images(
        self,
        size: int | None = None,
        resize: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        """Note in ``pretrained_cfg`` what images the weights were trained on.

        Args:
            size: Height and width; ``None`` leaves all as it is.
            resize: The shorter side before ``size`` pixels are cut out.
            mean: Of each color.
            std: Standard deviation of each color.
        """
        if size is None:
            return
        pixels = -(-size // self.feature_info[-1]["reduction"])
        self.pretrained_cfg |= {
            "input_size": (self.in_chans, size, size),
            "pool_size": (pixels, pixels),
            "crop_pct": size / (resize or size),
            "mean": tuple(mean),
            "std": tuple(std),
        }

    def set_drop_path_rate(self, rate: float) -> None:
        """Leave out whole blocks at random while training, the deeper the more often.

        Those that change width or resolution stay: nothing could take their place.

        Args:
            rate: Share of images for which the last block is left out, from 0 to less than 1.

        Raises:
            ValueError: If it is not, or inputs are no images.

        References:
            Huang et al., Deep networks with stochastic depth (2016).
        """
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path_rate must be from 0 to less than 1, got {rate}")
        if rate and len(self.input_size) == 1:
            raise ValueError("drop_path_rate is for images; a batch of vectors is one image here")
        self.drop_path_rate = rate

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of the blocks for the backward pass and run each block again.

        A cycle keeps about twice the activations of one block (section 3.4). Running a block again
        leaves the running statistics of its norms alone: training gives the same weights.
        """
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names by depth, for timm's learning rates that decay with it."""
        blocks = r"^stages\.s(\d+)" if coarse else r"^stages\.s(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^final", (99999,))]}

    def features(self, x: Tensor, last: int | None = None) -> dict[str, Tensor]:
        """Features at every stride, by name; the last ones are those of :meth:`forward_features`.

        Args:
            x: The input.
            last: Number of the last features that are computed; ``None`` for all.

        Shape:
            - ``x``: as the class. Returns ``{"s4": (B, C_4, H / 4, W / 4), ...}``.
        """
        names = list(self.stages)
        wanted = names if last is None else names[: last + 1]
        x, features = self._stem(x), {}
        for name in wanted:
            x = features[name] = self._run(name, x)
        if wanted == names:
            features[names[-1]] = self.final(x)
        return features

    def forward_features(self, x: Tensor) -> Tensor:
        """Features in front of the head.

        Shape:
            - ``x``: ``(B, *input_size)``. Returns ``(B, num_features, H / 32, W / 32)``, or what
              the last stride is.
        """
        return list(self.features(x).values())[-1]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features of :meth:`forward_features` and those on the way, as timm returns them.

        Args:
            x: The input.
            indices: Which features; see :func:`~mgic_vision.models.features.take_indices`.
            norm: Of no effect: no norm follows features on the way.
            stop_early: Whether to compute no more than is asked for.
            output_fmt: ``"NCHW"``, the only choice.
            intermediates_only: Whether to return the list alone.

        Raises:
            ValueError: If a feature is not there or ``output_fmt`` is another.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        wanted = take_indices(len(self.feature_info), indices)
        found = list(self.features(x, max(wanted) if stop_early else None).values())
        intermediates = [found[index] for index in wanted]
        return intermediates if intermediates_only else (found[-1], intermediates)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the features that are asked for do not need; :meth:`forward` returns those.

        Args:
            indices: Which features; see :func:`~mgic_vision.models.features.take_indices`.
            prune_norm: Of no effect: what follows the last stage is part of its features.
            prune_head: Of no effect on a network without a head.

        Raises:
            ValueError: If a feature is not there.
        """
        wanted = take_indices(len(self.feature_info), indices)
        rows = self.feature_info.info[: max(wanted) + 1]
        for name in list(self.stages)[len(rows) :]:
            del self.stages[name]
            self.final = nn.Identity()
        self.num_features = rows[-1]["num_chs"]
        self.feature_info = FeatureInfo(rows, wanted)
        return list(wanted)

    def forward(self, x: Tensor) -> Any:
        """Return the features that are asked for."""
        found = list(self.features(x).values())
        return [found[index] for index in self.feature_info.out_indices]

    def _stem(self, x: Tensor) -> Tensor:
        return self.stem(check_images(x, self.in_chans, len(self.input_size)))

    def _run(self, name: str, x: Tensor) -> Tensor:
        again = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        rates = self._rates(name) if self.drop_path_rate and self.training else ()
        return self.stages[name](x, rates, again) if again or rates else self.stages[name](x)

    def _rates(self, name: str) -> Sequence[float]:
        """How often the blocks of a stage are left out."""
        before = list(self.stages)[: list(self.stages).index(name)]
        first = sum(len(self.stages.keeps[stage]) for stage in before)
        last = max(sum(map(len, self.stages.keeps.values())) - 1, 1)
        return [
            keeps * self.drop_path_rate * number / last
            for number, keeps in enumerate(self.stages.keeps[name], first)
        ]
