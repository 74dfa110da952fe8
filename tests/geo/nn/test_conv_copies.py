"""VmapConv writes nothing to the module that threads share, and stacks only what can be stacked."""

import copy
import functools
import gc
import itertools
import logging
import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.explain import Explainer, GNNExplainer

from mgic_geo import MGICMessagePassing
from mgic_geo.nn.grouped_conv import LoopConv, VmapConv, make_grouped_conv

NODES, CHANNELS, GROUPS, THREADS = 7, 8, 2, 6
EDGES = torch.tensor([[5, 0, 0, 3, 2, 1, 4, 5], [0, 1, 1, 1, 2, 3, 3, 4]])
# of the second, the groups run one by one
GRAPHS = {"index": EDGES, "EdgeIndex": EdgeIndex(EDGES, sparse_size=(NODES, NODES))}
on_graphs = pytest.mark.parametrize("edges", GRAPHS.values(), ids=GRAPHS)


def draw(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NODES, CHANNELS, generator=generator)


def stack(conv, **kwargs):
    torch.manual_seed(0)
    return make_grouped_conv(conv, CHANNELS, CHANNELS, GROUPS, strategy="vmap", **kwargs)


def loop_of(conv):
    """The same parameters as copies in a loop."""
    narrow = [copy.deepcopy(conv.conv) for _ in range(GROUPS)]
    for i, own in enumerate(narrow):
        for tensor in itertools.chain(own.parameters(), own.buffers()):
            tensor.data = tensor.data[i].clone()
    return LoopConv(CHANNELS, CHANNELS, narrow)


class Plain(nn.Module):
    """A convolution without neighbors, for what PyG's own do not do."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.lin = nn.Linear(in_channels, out_channels)

    def forward(self, x, edge_index):
        return self.lin(x)


def gin(i, o):
    return pyg.GINConv(pyg.MLP([i, o, o]), train_eps=True)


# --- threads


def in_threads(function, arguments):
    """Results of calls that many threads make, which take turns often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(function, arguments))
    finally:
        sys.setswitchinterval(before)


def snapshot(module):
    state = [*module.named_parameters(), *module.named_buffers()]
    return {name: (id(t), t.data_ptr(), t.shape, t.detach().clone()) for name, t in state}


def assert_unchanged(module, before):
    after = snapshot(module)
    assert after.keys() == before.keys()
    for name, (*identity, value) in after.items():
        assert tuple(identity) == before[name][:-1]
        assert_close(value, before[name][-1], rtol=0, atol=0)


@pytest.mark.parametrize("conv", [pyg.GATConv, gin], ids=["attention", "batch norm"])
@on_graphs
def test_threads_get_the_values_of_one_thread_and_leave_the_parameters(conv, edges):
    model = MGICMessagePassing(CHANNELS, CHANNELS, conv, group_size=2, strategy="vmap").eval()
    assert isinstance(model.block.layers[0], VmapConv)
    seeds = range(THREADS)
    with torch.no_grad():
        expected = [model(draw(seed), edges) for seed in seeds]
    before = snapshot(model)

    def call(i):
        with torch.no_grad():
            return model(draw(i % THREADS), edges)

    outputs = in_threads(call, range(THREADS * 10))
    for i, out in enumerate(outputs):
        assert_close(out, expected[i % THREADS], rtol=0, atol=0)
    assert_unchanged(model, before)


def test_every_training_call_of_every_thread_moves_the_running_statistics():
    conv = stack(gin).train()
    in_threads(lambda i: conv(draw(i), EDGES), range(THREADS * 10))
    counts = conv.conv.nn.norms[0].module.num_batches_tracked
    # `add_` of two threads at once may lose one, in a plain BatchNorm1d too
    assert (counts > THREADS * 9).all()
    assert (counts <= THREADS * 10).all()


def test_threads_may_draw_parameters_again_while_others_call():
    conv = stack(pyg.GATConv)

    def call(i):
        return conv.reset_parameters() if i % 4 == 0 else conv(draw(i), EDGES)

    shapes = {None if out is None else out.shape for out in in_threads(call, range(120))}
    assert shapes == {None, (NODES, CHANNELS)}


# --- what a call leaves


class Keeping(Plain):
    def __init__(self, i, o):
        super().__init__(i, o)
        self.seen, self.history, self.nested = None, [], {"last": [None]}

    def forward(self, x, edge_index):
        self.seen = x
        self.history.append(x)
        self.nested["last"][0] = x
        return self.lin(x)


@on_graphs
def test_a_call_leaves_nothing_on_the_module(edges):
    conv = stack(Keeping)
    out = conv(draw(), edges)
    kept = conv.conv
    assert (kept.seen, kept.history, kept.nested) == (None, [], {"last": [None]})
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert_close(twin(draw(), edges), out, rtol=0, atol=0)


def test_what_is_dropped_is_logged_once_for_a_class(caplog):
    class Dropping(Keeping):
        pass

    class Silent(Plain):
        def forward(self, x, edge_index):
            self.scale, self.width = 0.1 * 3, "a" * x.size(-1)  # equal each time
            return super().forward(x, edge_index)

    def make(i, o):
        silent = Silent(i, o)
        silent.scale, silent.width = 0.1 * 3, "a" * i
        return silent

    for conv in (stack(Dropping), stack(Dropping), stack(make)):
        conv(draw(), EDGES)
        conv(draw(), EDGES)
    assert [record.getMessage() for record in caplog.records] == [
        "Dropping sets `seen` in forward, which stacked copies drop: take strategy='loop'"
    ]


def test_a_convolution_that_offers_a_loss_of_its_last_call_is_not_stacked():
    conv = make_grouped_conv(lambda i, o: pyg.SuperGATConv(i, o // 2, heads=2), 8, 8, 2)
    assert type(conv) is LoopConv
    conv(draw(), EDGES)
    assert all(narrow.get_attention_loss().isfinite() for narrow in conv.convs)


def test_buffers_that_a_call_replaces_keep_moving():
    class Normalized(Plain):
        def __init__(self, i, o):
            super().__init__(i, o)
            self.norm = pyg.InstanceNorm(o, track_running_stats=True)

        def forward(self, x, edge_index):
            return self.norm(self.lin(x), edge_index.new_zeros(x.size(0)), 1)

    conv = stack(Normalized)
    loop = loop_of(conv)
    for _ in range(2):
        assert_close(conv(draw(), EDGES), loop(draw(), EDGES))
    assert not conv.conv.norm.running_mean.requires_grad
    expected = torch.stack([narrow.norm.running_mean for narrow in loop.convs])
    assert_close(conv.conv.norm.running_mean, expected.detach())
    assert (expected != 0).all()


class Normed(Keeping):
    def __init__(self, i, o):
        super().__init__(i, o)
        self.norm = nn.BatchNorm1d(o)

    def forward(self, x, edge_index):
        return self.norm(super().forward(x, edge_index))


def test_compiled_calls_move_running_statistics_and_keep_nothing():
    torch._dynamo.reset()
    conv = stack(Normed)
    twin = copy.deepcopy(conv)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        assert_close(compiled(draw(), EDGES), twin(draw(), EDGES))
    for moved, expected in zip(conv.buffers(), twin.buffers(), strict=True):
        assert_close(moved, expected)
    assert (conv.conv.seen, conv.conv.history) == (None, [])
    copy.deepcopy(conv)


def test_clones_do_not_outlive_a_call():
    class Counted(Keeping):
        pass

    conv = stack(Counted)
    gc.collect()  # the copies that were stacked
    gc.disable()
    conv(draw(), EDGES)
    left = sum(type(thing) is Counted for thing in gc.get_objects())
    gc.enable()
    assert left == 1


# --- what modules may refer to


class Referring(nn.Module):
    """Names its own layers, methods and parameters a second time, outside of torch's registries."""

    def __init__(self, i, o):
        super().__init__()
        self.first, self.second = nn.Linear(i, o), nn.Linear(o, o)
        self.third = self.second  # a module with two names
        self.fourth = nn.Linear(o, o)
        self.fourth.weight = self.second.weight  # a parameter with two names
        self.steps = [self.first, {"next": (self.second,)}]
        self.act = self.squash
        self.vectors = [self.first.bias]
        self.steps.append(self.steps)  # a list may hold itself

    def squash(self, x):
        return x.tanh() * self.second.bias

    def forward(self, x, edge_index):
        first, more, _ = self.steps
        x = self.act(first(x)) + self.vectors[0]
        return self.fourth(self.third(more["next"][0](x)))


@on_graphs
def test_second_names_of_layers_methods_and_parameters_follow_the_copy(edges):
    conv = make_grouped_conv(Referring, CHANNELS, CHANNELS, GROUPS)
    assert type(conv) is VmapConv
    loop = loop_of(conv)
    out, expected = conv(draw(), edges), loop(draw(), edges)
    assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in conv.conv.named_parameters():
        grads = [narrow.get_parameter(name).grad for narrow in loop.convs]
        assert_close(parameter.grad, torch.stack(grads))


def test_decomposed_layers_of_pyg_follow_the_copy():
    conv = stack(pyg.GCNConv, decomposed_layers=2)
    assert_close(conv(draw(), EDGES), loop_of(conv)(draw(), EDGES))


def test_hooks_fire_and_may_change_the_output():
    conv, seen = stack(pyg.GATConv), []
    conv.conv.lin.register_forward_pre_hook(lambda module, inputs: seen.append(type(module)))
    conv.conv.register_forward_hook(lambda module, inputs, out: 2 * out)
    assert_close(conv(draw(), EDGES), 2 * stack(pyg.GATConv)(draw(), EDGES))
    assert seen == [pyg.Linear]


def test_a_compiled_part_is_not_called_with_the_stack():
    conv = stack(Plain)
    expected = conv(draw(), EDGES)
    conv.conv.lin.compile(backend="eager")
    assert_close(conv(draw(), EDGES), expected)


def test_explainers_mask_the_edges_of_all_groups():
    masks = []
    for conv in (stack(pyg.SAGEConv), loop_of(stack(pyg.SAGEConv))):
        torch.manual_seed(0)
        explainer = Explainer(
            conv,
            GNNExplainer(epochs=3),
            explanation_type="model",
            node_mask_type="attributes",
            edge_mask_type="object",
            model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
        )
        masks.append(explainer(draw(), EDGES).edge_mask)
    assert_close(*masks)


# --- what cannot be stacked


class Holder:
    def __init__(self, held):
        self.held = held


# name of an attribute, what is said of it, and its value for a tensor and a convolution
HOLDERS = [
    ("scale", "scale", lambda tensor, conv: tensor),
    ("scales", r"scales\[1\]\[0\]", lambda tensor, conv: [1, [tensor]]),
    ("scales", r"scales\[0\]\[0\]\[0\]", lambda tensor, conv: {"a": {"b": (tensor,)}}),
    ("scales", r"scales\[0\]", lambda tensor, conv: (tensor, 2)),
    ("act", r"act\[1\]", lambda tensor, conv: functools.partial(torch.mul, tensor)),
    ("act", r"act\[0\]", lambda tensor, conv: lambda x: x * tensor),
    ("act", r"act\[0\]\[0\]", lambda tensor, conv: lambda x, scale=tensor: x * scale),
    ("act", r"act\[0\]", lambda tensor, conv: Holder(tensor)),
    ("act", r"act\[0\]", lambda tensor, conv: functools.partial(conv.lin)),
    ("layers", r"layers\[0\].*", lambda tensor, conv: [nn.Linear(2, 2)]),
    ("lin.scale", r"lin\.scale", lambda tensor, conv: tensor),
]


@pytest.mark.parametrize(("attribute", "said", "value"), HOLDERS)
def test_a_tensor_that_is_not_registered_keeps_copies_apart(attribute, said, value):
    def make(i, o):
        conv = Plain(i, o)
        owner, _, name = attribute.rpartition(".")
        setattr(conv.get_submodule(owner), name, value(torch.randn(()), conv))
        return conv

    assert type(make_grouped_conv(make, 8, 8, 2)) is LoopConv
    with pytest.raises(ValueError, match=f"'vmap' would take `{said}` of the first Plain"):
        make_grouped_conv(make, 8, 8, 2, strategy="vmap")


class Scaled(Plain):
    def __init__(self, i, o):
        super().__init__(i, o)
        self.scale = torch.rand(())

    def forward(self, x, edge_index):
        return self.scale * self.lin(x)


def test_each_group_keeps_the_tensor_that_its_copy_did_not_register():
    conv = make_grouped_conv(Scaled, 8, 8, 2)
    pairs = zip(conv.convs, draw().chunk(2, 1), strict=True)
    parts = [narrow.scale * narrow.lin(x) for narrow, x in pairs]
    assert_close(conv(draw(), EDGES), torch.cat(parts, 1))


COUNTER = itertools.count()
UNLIKE = {
    "number": lambda i, o: differ(Plain(i, o), random.random()),
    "list": lambda i, o: differ(Plain(i, o), [1, random.random()]),
    "array": lambda i, o: differ(Plain(i, o), np.random.default_rng().random(3)),
    "frozen": lambda i, o: Plain(i, o).requires_grad_(next(COUNTER) % 2 == 0),
    "dtype": lambda i, o: Plain(i, o).to([torch.double, torch.float][next(COUNTER) % 2]),
    "class": lambda i, o: [Plain, Keeping][next(COUNTER) % 2](i, o),
    "shape": lambda i, o: pyg.EdgeConv(pyg.MLP([2 * i, 3 + next(COUNTER), o])),
}


def differ(conv, value):
    conv.value = value
    return conv


@pytest.mark.parametrize("name", UNLIKE)
def test_copies_that_are_not_alike_are_kept_apart(name):
    assert type(make_grouped_conv(UNLIKE[name], 8, 8, 2)) is LoopConv
    with pytest.raises(ValueError, match=r"like the first .* and they differ in"):
        make_grouped_conv(UNLIKE[name], 8, 8, 2, strategy="vmap")


def test_a_wide_form_would_run_all_groups_with_the_options_of_the_first():
    def make(i, o):
        return pyg.GATConv(i, o, negative_slope=random.random())

    assert type(make_grouped_conv(make, 8, 8, 2)) is LoopConv
    with pytest.raises(ValueError, match=r"'wide' would run .* differ in negative_slope"):
        make_grouped_conv(make, 8, 8, 2, strategy="wide")


def test_a_class_is_stacked_from_its_first_instance_on():
    class Fresh(pyg.SAGEConv):  # PyG looks into a class when it makes the first one
        pass

    assert type(make_grouped_conv(Fresh, 8, 8, 2)) is VmapConv


@pytest.mark.parametrize("strategy", ["wide", "vmap"])
def test_layers_that_wait_for_their_width_are_looped(strategy):
    def make(i, o):
        return pyg.SAGEConv(-1, o)

    conv = make_grouped_conv(make, 8, 8, 2)
    assert type(conv) is LoopConv
    assert conv(draw(), EDGES).shape == (NODES, 8)
    with pytest.raises(ValueError, match=f"{strategy}.* has to know the widths of SAGEConv"):
        make_grouped_conv(make, 8, 8, 2, strategy=strategy)


# --- the way back


def make_branching(norm):
    class Branching(Plain):
        """Looks at a value, for which vmap has no rule."""

        def __init__(self, i, o):
            super().__init__(i, o)
            self.norm = norm(o)

        def forward(self, x, edge_index):
            x = self.norm(self.lin(x))
            return x if x.sum() > 0 else x - 1

    return Branching


@pytest.mark.parametrize("norm", [nn.Identity, nn.BatchNorm1d], ids=["plain", "batch norm"])
def test_where_vmap_has_no_rule_the_groups_run_one_by_one(norm, caplog):
    conv = make_grouped_conv(make_branching(norm), CHANNELS, CHANNELS, GROUPS)
    assert type(conv) is VmapConv
    loop = loop_of(conv)
    for _ in range(2):
        assert_close(conv(draw(), EDGES), loop(draw(), EDGES))
    for name, buffer in conv.conv.named_buffers():  # a batch counts once
        assert_close(buffer, torch.stack([own.get_buffer(name) for own in loop.convs]))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("mgic_geo.nn.conv_copies", logging.WARNING)
    assert record.getMessage().startswith("Branching runs its groups one by one, since vmap failed")
    assert record.getMessage().endswith("take strategy='loop'")
    assert "\n" not in record.getMessage()


def test_threads_log_the_way_back_once(caplog):
    conv = stack(make_branching(nn.Identity))
    with torch.no_grad():
        expected = conv(draw(), EDGES)
        for out in in_threads(lambda _: conv(draw(), EDGES), range(60)):
            assert_close(out, expected, rtol=0, atol=0)
    assert len(caplog.records) == 1


def test_an_error_of_the_convolution_is_the_one_of_the_loop(caplog):
    class Failing(Plain):
        def forward(self, x, edge_index):
            raise KeyError(f"no weights for {x.size(0)} nodes")

    conv = stack(Failing)
    with pytest.raises(KeyError, match="no weights for 7 nodes") as caught:
        conv(draw(), EDGES)
    assert caught.value.__context__ is None
    assert not caplog.records


# --- drawing again


class Unlucky(Plain):
    draws = itertools.count(1)

    def reset_parameters(self):
        nn.init.zeros_(self.lin.weight)
        if next(self.draws) == GROUPS:
            raise RuntimeError("no luck")


def test_a_draw_that_fails_for_the_last_copy_changes_nothing():
    conv = stack(Unlucky)
    before = snapshot(conv)
    with pytest.raises(RuntimeError, match="no luck"):
        conv.reset_parameters()
    assert_unchanged(conv, before)
    conv.reset_parameters()
    assert_close(conv.conv.lin.weight, torch.zeros(GROUPS, 4, 4))


class Replacing(Plain):
    def reset_parameters(self):
        self.lin.weight = nn.Parameter(torch.randn_like(self.lin.weight))
        self.lin.bias.data = torch.full_like(self.lin.bias, 3.0)


def test_parameters_that_a_draw_replaces_land_in_the_stack():
    conv = stack(Replacing)
    parameters = list(map(id, conv.parameters()))
    before = conv.conv.lin.weight.detach().clone()
    conv.reset_parameters()
    assert list(map(id, conv.parameters())) == parameters
    assert (conv.conv.lin.weight != before).all()
    assert_close(conv.conv.lin.bias, torch.full((GROUPS, CHANNELS // GROUPS), 3.0))


def test_a_parameter_with_two_names_is_drawn_as_one():
    class Tied(Plain):
        def __init__(self, i, o):
            super().__init__(i, o)
            self.again = nn.Linear(i, o)
            self.again.weight = self.lin.weight

        def reset_parameters(self):
            nn.init.ones_(self.again.weight)
            self.lin.weight.data.mul_(2)

    conv = stack(Tied)
    conv.reset_parameters()
    assert_close(conv.conv.lin.weight, torch.full((GROUPS, 4, 4), 2.0))
    assert conv.conv.lin.weight is conv.conv.again.weight
