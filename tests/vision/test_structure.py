"""Blocks of the user's own are known by what they compute."""

from unittest.mock import Mock

import pytest
import torch
from image_blocks import SIZES
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from mgic_geo import MGICBlock
from mgic_vision import Parts, convert
from mgic_vision.conversion import structure
from mgic_vision.conversion.squeeze import is_squeeze
from mgic_vision.conversion.structure import find_blocks
from mgic_vision.conversion.tracer import OPERATIONS, is_scale, is_silent

IMAGE = torch.randn(2, 32, 6, 6, generator=torch.Generator().manual_seed(0))


class Own(nn.Module):
    """A residual block whose activations are functions."""

    def __init__(self, width=32, stride=1):
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1, stride=stride)
        self.n = nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, width, 3, padding=1)

    def branch(self, x):
        return self.b(functional.relu(self.n(self.a(x))))

    def forward(self, x):
        return x + self.branch(x)


class ActivatedAfter(Own):
    def forward(self, x):
        y = self.branch(x)
        y += x
        return torch.relu(y)


class Scaled(Own):
    """With layer scale on the channels, in front of the last permutation."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(32, 32)
        self.scale = nn.Parameter(torch.full((32,), 0.5))

    def forward(self, x):
        y = self.last(self.a(x).permute(0, 2, 3, 1)) * self.scale
        return torch.add(x, y.permute(0, 3, 1, 2))


class Strided(Own):
    def __init__(self):
        super().__init__(stride=2)
        self.down = nn.Conv2d(32, 32, 1, stride=2)

    def forward(self, x):
        return self.down(x) + self.branch(x)


class TwoBranches(Own):
    def forward(self, x):
        return self.a(x) + self.b(x)


class Gated(Own):
    """A gate that squeeze-excite's names do not tell."""

    def forward(self, x):
        y = self.a(x)
        return x + self.b(y * torch.sigmoid(self.n(y)))


class NormedShortcut(Own):
    """Parallel branches and a norm on the shortcut, as MobileOne has them."""

    def forward(self, x):
        y = 0
        for conv in (self.a, self.b):
            y += conv(x)
        return torch.relu(y + self.n(x))


class Attending(Own):
    def forward(self, x):
        return x + self.b(self.a(x).softmax(1))


class Doubled(Own):
    def forward(self, x):
        return 2 * super().forward(x)


class Filtering(Own):
    def __init__(self):
        super().__init__()
        self.b = nn.Conv2d(32, 32, 3, padding=1, groups=32)

    def forward(self, x):
        return x + self.b(x)


class Branching(Own):
    def forward(self, x):
        return x + self.branch(x) if x.sum() > 0 else x


class PooledGate(nn.Module):
    """Attention over channels by functions, as in many a network of one file."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 32), nn.Sigmoid())

    def pooled(self, x):
        return x.mean((2, 3))

    def forward(self, x):
        batch, channels, _, _ = x.size()
        return x * self.maps(self.pooled(x)).view(batch, channels, 1, 1).expand_as(x)


class AdaptiveGate(PooledGate):
    def pooled(self, x):
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


class BandGate(nn.Module):
    """As ECA: one short filter over the channels."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.filter = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.filter(self.pool(x).squeeze(-1).transpose(1, 2)).transpose(1, 2)
        return y.unsqueeze(-1).sigmoid() * x


class PlaceGate(PooledGate):
    """Differs from place to place."""

    def forward(self, x):
        return x * self.maps(x.mean(2).transpose(1, 2)).transpose(1, 2).unsqueeze(2)


class Squeezed(Own):
    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def forward(self, x):
        return x + self.gate(self.branch(x))


class GatedMap(nn.Module):
    """A gated feed-forward map, as Llama's."""

    def __init__(self, width=32, inner=96):
        super().__init__()
        self.gate, self.up = nn.Linear(width, inner), nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x):
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Out(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(32, 128)

    def forward(self, x):
        return functional.gelu(self.dense(x))


class Back(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.norm = nn.Linear(128, 32), nn.LayerNorm(32)

    def forward(self, y, x):
        return self.norm(self.dense(y) + x)


class Layer(nn.Module):
    """A transformer's layer whose feed-forward map is in two modules, as BERT's."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.intermediate, self.output = Out(), Back()

    def forward(self, x, mask=None, **kwargs):
        y, _ = self.attention(x, x, x, key_padding_mask=mask)
        return self.output(self.intermediate(y), y)


class ReadTwice(Layer):
    def forward(self, x):
        y = self.intermediate(x)
        return self.output(y, x) + y.mean()


class AddedTwice(Own):
    def forward(self, x):
        return x + (x + self.branch(x))


class Shifted(Own):
    def forward(self, x):
        return (x + self.branch(x)) + 1


class Squeezing(nn.Module):
    def __init__(self):
        super().__init__()
        self.maps = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64))

    def forward(self, x):
        return self.maps(x)


def change(block, **options):
    """A block in a network, converted; what became of it."""
    new, report = convert(nn.Sequential(block), **SIZES, **options)
    return new, report.rows[0]


def assert_one_level_is(block, x=IMAGE):
    new, _ = convert(block, group_size=512, coarse_size=16, min_width=1, project=True)
    with torch.no_grad():
        for norm in new.eval().cycle.norms:
            norm.weight.zero_()
    assert_close(new(x), block(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Own, ActivatedAfter, Scaled, Gated, NormedShortcut])
def test_one_level_of_the_users_block_is_that_block(kind):
    torch.manual_seed(0)
    assert_one_level_is(kind().eval())


def test_scale_in_front_of_a_permutation_acts_once_on_the_sum():
    block = Scaled()
    parts = find_blocks(block, {})[""](block)
    assert [type(m).__name__ for m in parts.branch] == ["Conv2d", "Permute", "Linear", "Permute"]
    assert [m.scale.shape for m in parts.after] == [(32, 1, 1)]


@pytest.mark.parametrize(
    ("kind", "reason", "known"),
    [
        (Strided, "changes width or resolution", "act(x + f(x)), x as it is"),
        (TwoBranches, "adds 2 branches of x, and not x itself", "act(x + f(x))"),
        (Attending, "does not understand `softmax`", OPERATIONS),
        (Doubled, "does not understand `mul`", OPERATIONS),
        (Filtering, "is depthwise: a cycle over channels would save nothing", "a map"),
    ],
)
def test_block_that_is_left_has_a_reason_and_what_would_have_been_known(kind, reason, known):
    _, row = change(kind())
    assert row.reason.startswith(f"{reason}; known is {known}")
    assert row.kind == kind.__name__


NO_BLOCKS = Branching, Squeezing, AddedTwice, Shifted, ReadTwice


@pytest.mark.parametrize("make", [*NO_BLOCKS, lambda: nn.Conv2d(32, 32, 3)])
def test_what_is_no_block_is_not_taken_for_one(make):
    with pytest.raises(ValueError, match="has no block that is known here"):
        change(make())


def test_gated_map_becomes_a_cycle_of_gated_maps():
    new, row = change(GatedMap())
    assert row.after < row.before
    assert new(torch.randn(2, 5, 32)).shape == (2, 5, 32)
    assert [type(layer.branch) for layer in new[0].cycle.layers] == [GatedMap] * len(row.levels)


def test_map_in_two_modules_becomes_one_cycle():
    torch.manual_seed(0)
    model, x = nn.Sequential(Layer(), Layer()).eval(), torch.randn(2, 5, 32)
    whole = {"group_size": 512, "coarse_size": 16, "min_width": 1, "project": True}
    new, report = convert(model, **whole, exclude=["1.*"])
    assert [row.name for row in report.changed] == ["0.intermediate"]
    with torch.no_grad():
        for norm in new[0].intermediate.cycle.norms:
            norm.weight.zero_()
    assert_close(new(x), model(x))
    assert new[1].state_dict().keys() == model[1].state_dict().keys()
    _, report = convert(model, **SIZES)
    assert all(row.after < row.before for row in report.rows)


class Alone(Layer):
    """Two modules of one map that are a residual block."""

    def forward(self, x):
        return self.output(self.intermediate(x), x)


def test_map_in_two_modules_of_one_block_is_converted_with_it():
    new, row = change(Alone())
    assert (row.name, row.kind) == ("0", "Alone")
    assert new(torch.randn(2, 5, 32)).shape == (2, 5, 32)


def test_map_in_two_modules_of_a_known_class_stays_where_it_is():
    def parts(block):
        layers = block.intermediate.dense, nn.GELU(), block.output.dense
        return Parts(nn.Sequential(*layers), act=block.output.norm, is_image=False)

    _, row = change(Alone(), blocks={Alone: parts})
    assert row.kind == "Alone"
    assert row.after is not None


def test_innermost_block_is_taken_where_others_only_hold_it():
    model = nn.Sequential(nn.Sequential(nn.Sequential(Own())), nn.Sequential(Own(), Own()))
    _, report = convert(model, **SIZES)
    assert [row.name for row in report.changed] == ["0.0.0", "1.0", "1.1"]


def test_block_of_a_known_kind_without_shortcut_is_named():
    class Either(Own):
        def __init__(self, shortcut):
            super().__init__()
            self.shortcut = shortcut

        def forward(self, x):
            return x + self.branch(x) if self.shortcut else self.branch(x)

    _, report = convert(nn.Sequential(Either(False), Either(True)), **SIZES)
    (left,) = report.left
    assert (left.name, left.reason) == ("0", structure.NO_SHORTCUT)


@pytest.mark.parametrize("gate", [PooledGate, AdaptiveGate, BandGate])
def test_attention_over_channels_is_on_the_finest_level_alone(gate):
    torch.manual_seed(0)
    block = Squeezed(gate()).eval()
    new, row = change(block)
    assert row.after is not None
    assert [type(m) for m in new.modules()].count(gate) == 1
    assert_one_level_is(block)


def test_what_differs_from_place_to_place_is_no_attention_over_channels():
    assert is_squeeze(PooledGate())
    assert not is_squeeze(PlaceGate())
    _, row = change(Squeezed(PlaceGate()))
    assert "does not understand `mean`" in row.reason


def test_a_block_is_always_left_for_the_same_reason():
    class Many(Own):
        def forward(self, x):
            y = self.a(x)
            return x + self.b(y.softmax(1) + y.cumsum(1) + y.flip(1) + y.roll(1, 1))

    assert {change(Many())[1].reason for _ in range(5)} == {
        f"does not understand `softmax`; known is {OPERATIONS}"
    }


@pytest.mark.parametrize("blocks", [{"Own": Parts}, {Own: lambda block: block.a}])
def test_what_gives_no_parts_by_class_is_refused(blocks):
    with pytest.raises(ValueError, match=r"blocks (goes by the class|must give Parts of Own)"):
        change(Own(), blocks=blocks)


def test_user_says_what_a_block_is_made_of():
    def parts(block):
        return Parts(nn.Sequential(block.a, block.n, nn.ReLU(), block.b))

    model = nn.Sequential(Branching(), Own())
    new, report = convert(model, **SIZES, blocks={Branching: parts})
    assert [row.kind for row in report.changed] == ["Branching", "Own"]
    assert isinstance(new[0].cycle, MGICBlock)
    assert new(IMAGE).shape == IMAGE.shape


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_model_is_refused_by_name(wrap):
    wrapped = wrap(nn.Sequential(Own()))
    name = type(wrapped).__name__
    inside = "module" if wrap is nn.DataParallel else "_orig_mod"
    with pytest.raises(ValueError, match=f"model is wrapped in {name}: convert .* model.{inside}"):
        convert(wrapped, **SIZES)
    with pytest.raises(ValueError, match=f"0 is wrapped in {name}: convert .* model.0.{inside}"):
        convert(nn.Sequential(wrapped), **SIZES)


def test_finding_blocks_calls_no_hook_and_leaves_modes_alone():
    block, calls = Own().train(), []
    for module in block.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
    block.n.eval()
    new, _ = change(block)
    assert not calls
    assert [module.training for module in block.modules()] == [True, True, False, True]
    assert not new[0].cycle.layers[0].branch[1].training


def test_block_is_traced_once(monkeypatch):
    trace = Mock(wraps=structure.trace)
    monkeypatch.setattr(structure, "trace", trace)
    _, row = change(Own())
    assert row.after is not None
    assert [type(call.args[0]) for call in trace.call_args_list].count(Own) == 1


@pytest.mark.parametrize(
    ("module", "silent", "scale"),
    [
        (nn.Dropout(0.5), True, False),
        (nn.Identity(), True, False),
        (nn.ReLU(), False, False),
        (nn.GELU(), False, False),
        (nn.BatchNorm2d(4), False, False),
        (nn.PReLU(), False, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_scales_and_drops_is_told_from_what_computes(module, silent, scale):
    assert (is_silent(module), is_scale(module)) == (silent, scale)


def test_layer_scale_and_drop_path_of_timm_are_known():
    from timm.layers import DropPath, LayerScale, LayerScale2d

    assert is_silent(DropPath(0.1))
    assert is_scale(LayerScale(8))
    assert is_scale(LayerScale2d(8))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Bert", "ViT", "GPT2", "Llama", "ConvNext", "ResNet"])
def test_blocks_of_hugging_face_are_known(name):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "Bert": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        "ViT": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        "GPT2": {"n_embd": 48, "n_layer": 2, "vocab_size": 10},
        "Llama": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
        "ConvNext": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]},
        "ResNet": {"hidden_sizes": [64, 64, 64, 64], "depths": [2, 2, 1, 1]},
    }
    config = getattr(transformers, f"{name}Config")(**sizes[name], num_attention_heads=4)
    model = getattr(transformers, f"{name}Model")(config)
    new, report = convert(model, **SIZES)
    assert len(report.changed) >= 2
    inputs = torch.rand(2, 3, 224, 224) if name in ("ViT", "ConvNext", "ResNet") else None
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        y = new(tokens) if inputs is None else new(inputs)
    assert y.last_hidden_state.isfinite().all()
