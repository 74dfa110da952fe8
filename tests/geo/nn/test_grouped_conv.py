import copy
import functools
import inspect

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch.testing import assert_close
from torch_geometric import EdgeIndex

from mgic_geo.nn.grouped_conv import WIDE, LoopConv, VmapConv, WideConv, make_grouped_conv

NODES, CHANNELS, OUT, GROUPS = 7, 8, 12, 2
# node 2 has a self-loop, node 5 only sends, node 6 has no edges at all; 0 -> 1 is there twice
EDGES = torch.tensor([[5, 0, 0, 3, 2, 1, 4, 5], [0, 1, 1, 1, 2, 3, 3, 4]])


def network(i, o, norm=None, act=nn.ReLU):
    between = [act()] if norm is None else [norm(o), act()]
    return nn.Sequential(nn.Linear(i, o), *between, nn.Linear(o, o))


def attributes():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(EDGES.size(1), 3, generator=generator, dtype=torch.float64)


EDGE_WEIGHT = {"edge_weight": attributes()[:, 0]}
EDGE_ATTR = {"edge_attr": attributes()}
DEGREES = torch.tensor([1, 3, 2, 1])

# name: factory of one group, keyword inputs, form that "auto" takes
CASES = {
    "gcn": (pyg.GCNConv, {}, WideConv),
    "gcn weights": (pyg.GCNConv, EDGE_WEIGHT, WideConv),
    "gcn cached": (functools.partial(pyg.GCNConv, cached=True), {}, WideConv),
    "gcn std": (functools.partial(pyg.GCNConv, aggr="std"), {}, VmapConv),
    "sage": (pyg.SAGEConv, {}, WideConv),
    "sage max project": (functools.partial(pyg.SAGEConv, aggr="max", project=True), {}, WideConv),
    "sage normalize": (functools.partial(pyg.SAGEConv, normalize=True), {}, VmapConv),
    "sage softmax": (functools.partial(pyg.SAGEConv, aggr="softmax"), {}, VmapConv),
    "graph": (pyg.GraphConv, EDGE_WEIGHT, WideConv),
    "graph max": (functools.partial(pyg.GraphConv, aggr="max"), {}, WideConv),
    "tag": (pyg.TAGConv, EDGE_WEIGHT, WideConv),
    "cheb": (functools.partial(pyg.ChebConv, K=3), {}, WideConv),
    "sg": (functools.partial(pyg.SGConv, K=2), {}, WideConv),
    "ssg": (functools.partial(pyg.SSGConv, alpha=0.1, K=2), {}, WideConv),
    "le": (pyg.LEConv, EDGE_WEIGHT, WideConv),
    "cluster": (pyg.ClusterGCNConv, {}, WideConv),
    "mf": (functools.partial(pyg.MFConv, max_degree=2), {}, WideConv),
    "gin": (lambda i, o: pyg.GINConv(network(i, o)), {}, WideConv),
    "gin mlp": (lambda i, o: pyg.GINConv(pyg.MLP([i, 5, o])), {}, WideConv),
    "gin eps": (lambda i, o: pyg.GINConv(network(i, o), train_eps=True), {}, VmapConv),
    "gin layer norm": (lambda i, o: pyg.GINConv(network(i, o, nn.LayerNorm)), {}, VmapConv),
    "gine": (lambda i, o: pyg.GINEConv(network(i, o), edge_dim=3), EDGE_ATTR, VmapConv),
    "gat": (functools.partial(pyg.GATConv, residual=True), {}, WideConv),
    "gat heads": (lambda i, o: pyg.GATConv(i, o // 2, heads=2), {}, WideConv),
    "gat mean": (functools.partial(pyg.GATConv, heads=2, concat=False), {}, VmapConv),
    "gat edges": (functools.partial(pyg.GATConv, edge_dim=3), EDGE_ATTR, VmapConv),
    "gatv2": (pyg.GATv2Conv, {}, WideConv),
    "gatv2 shared": (functools.partial(pyg.GATv2Conv, share_weights=True), {}, WideConv),
    "transformer": (pyg.TransformerConv, {}, WideConv),
    "transformer heads": (lambda i, o: pyg.TransformerConv(i, o // 2, heads=2), {}, WideConv),
    "transformer beta": (functools.partial(pyg.TransformerConv, beta=True), {}, VmapConv),
    "transformer edges": (functools.partial(pyg.TransformerConv, edge_dim=3), EDGE_ATTR, VmapConv),
    "gated": (pyg.ResGatedGraphConv, {}, WideConv),
    "gated edges": (functools.partial(pyg.ResGatedGraphConv, edge_dim=3), EDGE_ATTR, VmapConv),
    "arma": (functools.partial(pyg.ARMAConv, num_stacks=2, num_layers=2), EDGE_WEIGHT, VmapConv),
    "feast": (functools.partial(pyg.FeaStConv, heads=2), {}, VmapConv),
    "edge": (lambda i, o: pyg.EdgeConv(network(2 * i, o)), {}, VmapConv),
    "gen": (pyg.GENConv, {}, VmapConv),
    "film": (pyg.FiLMConv, {}, VmapConv),
    "pna": (
        functools.partial(
            pyg.PNAConv, aggregators=["mean", "max"], scalers=["identity"], deg=DEGREES
        ),
        {},
        LoopConv,
    ),
    "sage two aggregations": (functools.partial(pyg.SAGEConv, aggr=["mean", "max"]), {}, LoopConv),
    "gru": (lambda i, o: pyg.GatedGraphConv(o, 2), {}, LoopConv),
    "hypergraph": (pyg.HypergraphConv, {}, LoopConv),
}
FAST = {
    f"{name}, {form.__name__}": (name, form)
    for name, (_, _, auto) in CASES.items()
    for form in (WideConv, VmapConv)
    if auto is not LoopConv and (auto is WideConv or form is VmapConv)
    if (name, form) != ("mf", VmapConv)  # correct, but vmap warns that it has no rule
}
fast_forms = pytest.mark.parametrize(("name", "form"), FAST.values(), ids=FAST)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def make_loop(name):
    torch.manual_seed(0)
    conv = CASES[name][0]
    return make_grouped_conv(conv, CHANNELS, OUT, GROUPS, strategy="loop").double()


def make_pair(name, form):
    loop = make_loop(name)
    return loop, form(CHANNELS, OUT, list(loop.convs))


def coupling(conv, kwargs):
    """Derivatives of each output channel, mixed over nodes, by each input channel."""
    x = draw(NODES, CHANNELS).requires_grad_()
    out = conv(x, EDGES, **kwargs)
    mixed = (out * draw(NODES, 1)).sum(0)
    rows = [torch.autograd.grad(channel, x, retain_graph=True)[0] for channel in mixed]
    return torch.stack(rows).abs().sum(1)


def assert_groups_apart(coupled):
    rows, columns = (width // GROUPS for width in coupled.shape)
    apart = 1 - torch.block_diag(*[torch.ones(rows, columns)] * GROUPS)
    assert_close(coupled * apart, torch.zeros_like(coupled), rtol=0, atol=0)
    for group, block in enumerate(coupled.split(rows)):
        assert block[:, group * columns : (group + 1) * columns].sum() > 0


@fast_forms
def test_values_gradients_and_buffers_equal_those_of_a_loop_of_copies(name, form):
    loop, conv = make_pair(name, form)
    kwargs = CASES[name][1]
    x, y = draw(NODES, CHANNELS).requires_grad_(), draw(NODES, CHANNELS).requires_grad_()
    expected, out = loop(x, EDGES, **kwargs), conv(y, EDGES, **kwargs)
    assert_close(out, expected)

    weights = draw(*out.shape).sin()
    (expected * weights).sum().backward()
    (out * weights).sum().backward()
    assert_close(y.grad, x.grad)
    copies = [dict(narrow.named_parameters()) for narrow in loop.convs]
    for key, parameter in conv.conv.named_parameters():
        grads = [state[key].grad for state in copies]
        if grads[0] is None:
            assert parameter.grad is None
        else:
            assert_close(parameter.grad, torch.stack(grads).reshape(parameter.shape))
    for key, buffer in conv.conv.named_buffers():
        values = torch.stack([dict(narrow.named_buffers())[key] for narrow in loop.convs])
        if buffer.numel() == values.numel():
            assert_close(buffer, values.reshape(buffer.shape))


@pytest.mark.parametrize(
    "leaky",
    [
        lambda: pyg.EdgeConv(nn.Linear(8, 4)),
        lambda: pyg.CGConv(4),
        lambda: pyg.SAGEConv(4, 4, normalize=True),
        lambda: pyg.GINConv(network(4, 4, act=lambda: nn.Softmax(-1))),
        lambda: pyg.GINConv(pyg.MLP([4, 4, 4], act=lambda x: x.softmax(-1))),
    ],
    ids=["edge", "cg", "normalize", "softmax", "softmax function"],
)
def test_the_wide_form_of_other_convolutions_would_mix_groups_and_is_refused(leaky):
    wide = WideConv(CHANNELS, CHANNELS, [leaky(), leaky()]).double()
    with pytest.raises(AssertionError):
        assert_groups_apart(coupling(wide, {}))
    with pytest.raises(ValueError, match="'wide' would mix"):
        make_grouped_conv(lambda i, o: leaky(), CHANNELS, CHANNELS, GROUPS, strategy="wide")


def test_every_class_with_a_wide_form_is_tested():
    tested = {type(make_loop(name).convs[0]) for name, case in CASES.items() if case[2] is WideConv}
    assert tested == set(WIDE)


@pytest.mark.parametrize("name", CASES)
def test_auto_takes_the_first_form_that_is_right(name):
    conv, kwargs, form = CASES[name]
    grouped = make_grouped_conv(conv, CHANNELS, OUT, GROUPS).double()
    assert type(grouped) is form
    assert grouped(draw(NODES, CHANNELS), EDGES, **kwargs).shape == (NODES, OUT)


class Native(nn.Module):
    def __init__(self, i, o, *, groups=1, flag=False):
        super().__init__()
        self.given = i, o, groups, flag


def test_a_convolution_that_names_groups_is_called_once_with_the_full_widths():
    assert make_grouped_conv(Native, 8, 16, 4, flag=True).given == (8, 16, 4, True)
    partial = functools.partial(Native, flag=True)
    assert make_grouped_conv(partial, 8, 16, 4).given == (8, 16, 4, True)


def test_a_convolution_that_only_takes_any_keyword_is_not_given_groups():
    def conv(i, o, **kwargs):
        assert not kwargs
        return pyg.GCNConv(i, o)

    assert isinstance(make_grouped_conv(conv, 8, 16, 4), WideConv)
    gcn = make_grouped_conv(pyg.GCNConv, 16, 16, 4)
    assert gcn.conv.improved is False


def test_one_group_is_the_plain_convolution():
    conv = make_grouped_conv(pyg.GATConv, 8, 16, 1, heads=2, concat=False)
    assert type(conv) is pyg.GATConv
    assert (conv.in_channels, conv.out_channels, conv.heads) == (8, 16, 2)


@pytest.mark.parametrize("form", [WideConv, VmapConv, LoopConv])
def test_both_sides_of_a_bipartite_graph_are_split_alike(form):
    loop, conv = make_pair("sage", form)
    x, edges = (draw(6, CHANNELS), draw(3, CHANNELS).cos()), torch.tensor([[5, 0, 4], [0, 0, 2]])
    expected = [
        narrow((x[0][:, part], x[1][:, part]), edges)
        for narrow, part in zip(loop.convs, (slice(0, 4), slice(4, 8)), strict=True)
    ]
    assert_close(conv(x, edges, size=(6, 3)), torch.cat(expected, -1))


@pytest.mark.parametrize("form", [WideConv, VmapConv])
@pytest.mark.parametrize("name", ["graph", "gin", "gat"])
def test_targets_without_features_take_their_number_from_size(name, form):
    loop, conv = make_pair(name, form)
    x, edges = (draw(6, CHANNELS), None), torch.tensor([[5, 0, 4], [0, 0, 1]])
    out = conv(x, edges, size=(6, 3))
    assert out.shape == (3, OUT)
    assert_close(out, loop(x, edges, size=(6, 3)))


# an edge that is there twice is one of weight 2
MATRIX = torch.sparse_coo_tensor(EDGES.flip(0), torch.ones(EDGES.size(1)), (NODES, NODES))
ADJACENCIES = {
    "EdgeIndex": EdgeIndex(EDGES, sparse_size=(NODES, NODES)).sort_by("col").values,
    "sparse": MATRIX.coalesce().to_sparse_csr(),
    "no edges": EDGES[:, :0],
}


@pytest.mark.parametrize("form", [WideConv, VmapConv])
@pytest.mark.parametrize("name", ["gcn", "sage", "graph", "gin", "gat", "transformer"])
@pytest.mark.parametrize("adjacency", ADJACENCIES.values(), ids=ADJACENCIES)
@pytest.mark.filterwarnings("ignore:Sparse CSC tensor support")  # the first one of a process
def test_other_kinds_of_adjacency_agree_with_the_loop(adjacency, name, form):
    loop, conv = make_pair(name, form)
    loop, conv, x = loop.float(), conv.float(), draw(NODES, CHANNELS).float()
    assert_close(conv(x, adjacency), loop(x, adjacency))


def test_leading_axes_of_static_graphs_are_kept():
    for form in (WideConv, VmapConv):
        loop, conv = make_pair("sage", form)
        assert_close(conv(draw(3, NODES, CHANNELS), EDGES), loop(draw(3, NODES, CHANNELS), EDGES))


@pytest.mark.parametrize("form", [WideConv, VmapConv])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_batch_norm_inside_a_network_keeps_the_statistics_of_its_groups(form, train):
    def make():
        return pyg.GINConv(network(4, 4, nn.BatchNorm1d)).double()

    torch.manual_seed(0)
    copies = [make(), make()]
    loop = LoopConv(CHANNELS, CHANNELS, copy.deepcopy(copies))
    conv = form(CHANNELS, CHANNELS, copies)
    x = draw(NODES, CHANNELS)
    for _ in range(2):
        assert_close(conv.train()(x, EDGES), loop.train()(x, EDGES))
    assert_close(conv.train(train)(x, EDGES), loop.train(train)(x, EDGES))
    expected = torch.cat([narrow.nn[1].running_var for narrow in loop.convs])
    assert_close(conv.conv.nn[1].running_var.flatten(), expected)


@pytest.mark.parametrize("strategy", ["wide", "vmap", "loop"])
def test_attention_dropout_is_drawn_for_each_group(strategy):
    conv = make_grouped_conv(pyg.GATConv, 8, 8, 2, strategy=strategy, dropout=0.5)
    for parameter in conv.parameters():
        nn.init.ones_(parameter)
    first, second = conv(torch.ones(NODES, 8), EDGES.repeat(1, 9)).chunk(2, -1)
    assert (first != second).any()
    first, second = conv.eval()(torch.ones(NODES, 8), EDGES).chunk(2, -1)
    assert_close(first, second)


@pytest.mark.parametrize("strategy", ["wide", "vmap", "loop"])
@pytest.mark.parametrize("name", ["gcn", "sage", "gin", "gat", "gatv2", "transformer"])
def test_reset_draws_every_group_anew_from_its_narrow_widths(name, strategy):
    def draws(conv):
        torch.manual_seed(3)
        values = []
        for _ in range(12):
            conv.reset_parameters()
            values.append([p.detach().clone().flatten() for p in conv.parameters()])
        return [torch.stack(parts) for parts in zip(*values, strict=True)]

    factory = CASES[name][0]
    grouped = make_grouped_conv(factory, 64, 64, 8, strategy=strategy)
    for parameter in grouped.parameters():
        nn.init.constant_(parameter, 7.0)
    for parameter in draws(grouped):
        assert (parameter != 7).all()
        constant = (parameter == 0).all()  # biases that start at zero
        assert constant or parameter[0].unique().numel() == parameter.size(1)
    narrow = draws(factory(8, 8))
    for wide, own in zip(draws(grouped)[: len(narrow)], narrow, strict=True):
        assert_close(wide.abs().max(), own.abs().max(), rtol=0.1, atol=0)  # bounds of the draws


@pytest.mark.parametrize("strategy", ["wide", "vmap", "loop"])
def test_a_state_dict_carries_everything_over(strategy):
    factory = lambda i, o: pyg.GINConv(network(i, o, nn.BatchNorm1d))  # noqa: E731
    first, second = (make_grouped_conv(factory, 8, 8, 2, strategy=strategy) for _ in range(2))
    x = torch.randn(NODES, 8)
    first(x, EDGES)
    second.load_state_dict(first.state_dict())
    assert_close(second.eval()(x, EDGES), first.eval()(x, EDGES), rtol=0, atol=0)


def test_modules_among_the_keyword_arguments_are_not_shared_by_copies_nor_by_levels_of_a_cycle():
    aggregation = pyg.SoftmaxAggregation(learn=True)
    copies = make_grouped_conv(pyg.SAGEConv, 8, 8, 2, strategy="loop", aggr=aggregation).convs
    levels = [make_grouped_conv(pyg.SAGEConv, 8, 8, 1, aggr=aggregation) for _ in range(2)]
    modules = [aggregation, *(conv.aggr_module for conv in (*copies, *levels))]
    assert len({id(module) for module in modules}) == 5
    assert len({id(module.t) for module in modules}) == 5


@functools.cache
def takes_cached():
    kinds = [getattr(pyg, name) for name in pyg.conv.__all__]
    return [kind for kind in kinds if "cached" in inspect.signature(kind).parameters]


GRAPH_IS_CACHED = {
    pyg.GCNConv: lambda **kwargs: pyg.GCNConv(4, 4, **kwargs),
    pyg.GCN2Conv: lambda **kwargs: pyg.GCN2Conv(4, 0.5, **kwargs),
    pyg.EGConv: lambda **kwargs: pyg.EGConv(4, 4, num_heads=1, **kwargs),
    pyg.FAConv: lambda **kwargs: pyg.FAConv(4, **kwargs),
    pyg.APPNP: lambda **kwargs: pyg.APPNP(2, 0.1, **kwargs),
    pyg.DNAConv: lambda **kwargs: pyg.DNAConv(4, **kwargs),
}
FEATURES_ARE_CACHED = {pyg.SGConv: "_cached_x", pyg.SSGConv: "_cached_h"}


def test_it_is_known_of_all_convolutions_of_pyg_what_they_cache():
    assert set(takes_cached()) == GRAPH_IS_CACHED.keys() | FEATURES_ARE_CACHED.keys()


@pytest.mark.parametrize("kind", GRAPH_IS_CACHED)
def test_a_cached_graph_is_allowed_and_not_stacked(kind):
    make = GRAPH_IS_CACHED[kind]
    conv = make_grouped_conv(lambda i, o: make(cached=True), CHANNELS, CHANNELS, GROUPS)
    assert type(conv) is (WideConv if kind is pyg.GCNConv else LoopConv)


@pytest.mark.parametrize("groups", [1, GROUPS])
@pytest.mark.parametrize("strategy", ["auto", "wide", "vmap", "loop"])
@pytest.mark.parametrize("kind", FEATURES_ARE_CACHED)
def test_cached_features_are_refused(kind, strategy, groups):
    def inner(i, o):
        return nn.Sequential(make(i, o), nn.ReLU())

    arguments = {"alpha": 0.1} if kind is pyg.SSGConv else {}
    make = functools.partial(kind, cached=True, **arguments)
    message = f"{kind.__name__} keeps features of its first call in {FEATURES_ARE_CACHED[kind]},"
    for conv in (make, inner):
        with pytest.raises(ValueError, match=f"{message}.*take cached=False"):
            make_grouped_conv(conv, CHANNELS, CHANNELS, groups, strategy=strategy)
    plain = functools.partial(kind, **arguments)
    make_grouped_conv(plain, CHANNELS, CHANNELS, groups, strategy=strategy)


def test_convolutions_of_others_that_cache_features_are_refused_by_their_attributes():
    class Cached(nn.Module):
        def __init__(self, i, o, *, groups=1, cached=False):
            super().__init__()
            self.cached, self.x_cache = cached, None

    with pytest.raises(ValueError, match="Cached keeps features of its first call in x_cache"):
        make_grouped_conv(Cached, CHANNELS, CHANNELS, GROUPS, cached=True)
    make_grouped_conv(Cached, CHANNELS, CHANNELS, GROUPS)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2] is VmapConv])
def test_autocast_of_stacked_copies_gives_finite_gradients(name):
    conv, kwargs, _ = CASES[name]
    grouped = make_grouped_conv(conv, CHANNELS, OUT, GROUPS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = grouped(
            draw(NODES, CHANNELS).float(), EDGES, **{key: v.float() for key, v in kwargs.items()}
        )
    out.float().square().sum().backward()
    grads = [p.grad for p in grouped.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert any((grad != 0).any() for grad in grads)


@pytest.mark.parametrize("strategy", ["wide", "vmap", "loop"])
def test_exports(strategy):
    conv = make_grouped_conv(pyg.SAGEConv, 8, 8, 2, strategy=strategy).eval()
    x = torch.randn(NODES, 8)
    program = torch.export.export(conv, (x, EDGES))
    assert_close(program.module()(x, EDGES), conv(x, EDGES))


def test_repr_shows_widths_and_groups():
    conv = make_grouped_conv(pyg.GraphConv, 16, 32, 4, strategy="loop")
    assert repr(conv).splitlines()[1].strip() == "16, 32, groups=4"
    assert "4 x GraphConv(4, 8)" in repr(conv)
    wide = make_grouped_conv(lambda i, o: pyg.GATConv(i, o // 2, heads=2), 16, 32, 4)
    assert "GATConv(16, 4, heads=8)" in repr(wide)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "fast"}, r"'auto', 'wide', 'vmap', 'loop'\], got 'fast'"),
        ({"in_channels": -1}, "in_channels must be at least 1, got -1"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"groups": 3}, "got 3"),
        ({"groups": 0}, "got 0"),
        ({"strategy": "wide", "normalize": True}, "'wide' would mix the groups of SAGEConv"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, message):
    arguments = {"in_channels": 8, "out_channels": 8, "groups": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        make_grouped_conv(pyg.SAGEConv, **arguments)


@pytest.mark.parametrize("strategy", ["auto", "vmap", "loop"])
def test_heads_that_widen_the_output_are_refused_at_construction(strategy):
    message = "in_channels=8, out_channels=8 and groups=2.* 4 channels, got 16, 4 heads of 4"
    with pytest.raises(ValueError, match=message):
        make_grouped_conv(pyg.GATConv, 8, 8, 2, heads=4, strategy=strategy)


@pytest.mark.parametrize("strategy", ["wide", "vmap", "loop"])
@pytest.mark.parametrize(
    ("conv", "width", "options", "message"),
    [
        (lambda i, o: pyg.GINConv(network(i, 3)), 8, {}, "groups=2.* with 4 channels, got "),
        (pyg.GATConv, 8, {"return_attention_weights": True}, "with 4 channels, got a tuple"),
        (pyg.TAGConv, 6, {}, "8 channels"),
    ],
    ids=["output of another width", "two outputs", "input of another width"],
)
def test_calls_that_do_not_fit_are_refused(conv, width, options, message, strategy):
    grouped = make_grouped_conv(conv, 8, 8, 2, strategy=strategy)
    with pytest.raises(ValueError, match=message):
        grouped(torch.ones(NODES, width), EDGES, **options)
