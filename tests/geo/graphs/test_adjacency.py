import pytest
import torch
from torch.testing import assert_close
from torch_geometric import EdgeIndex

from mgic_geo.graphs.adjacency import Adjacency, from_neighbors, to_adjacency
from mgic_geo.ops.spmm import targets_of, transpose

NUM_SOURCES, NUM_TARGETS = 5, 4
# unsorted, a self-loop, an edge that is there twice; source 4 and target 3 have no edges
EDGES = torch.tensor([[3, 0, 1, 3, 2, 0], [2, 1, 0, 0, 2, 1]])
SIMPLE = EDGES[:, :5]  # matrices cannot hold an edge twice
BY_ROW = SIMPLE[:, SIMPLE[0].argsort(stable=True)]
BY_COL = SIMPLE[:, SIMPLE[1].argsort(stable=True)]
SIZE = (NUM_SOURCES, NUM_TARGETS)

matrix = torch.sparse_coo_tensor(SIMPLE.flip(0), torch.ones(5), (NUM_TARGETS, NUM_SOURCES))
MATRICES = {
    "coo": matrix,
    "coalesced coo": matrix.coalesce(),
    "csr": matrix.to_sparse_csr(),
    "csc": matrix.to_sparse_csc(),
}
LISTS = {
    "unsorted": SIMPLE,
    "sorted by source": BY_ROW,
    "sorted by target": BY_COL,
    "int32": SIMPLE.int(),
    "not contiguous": SIMPLE.t().contiguous().t(),
    "EdgeIndex": EdgeIndex(SIMPLE, sparse_size=SIZE),
    "EdgeIndex without size": EdgeIndex(SIMPLE),
    "EdgeIndex by source": EdgeIndex(BY_ROW, sparse_size=SIZE, sort_order="row"),
    "EdgeIndex by target": EdgeIndex(BY_COL, sparse_size=SIZE, sort_order="col"),
    "EdgeIndex by target without size": EdgeIndex(BY_COL, sort_order="col"),
    "EdgeIndex of a larger graph": EdgeIndex(BY_COL, sparse_size=(9, 9), sort_order="col"),
    "int32 EdgeIndex": EdgeIndex(BY_COL.int(), sparse_size=SIZE, sort_order="col"),
}


def edges_of(adjacency: Adjacency) -> list[tuple[int, int]]:
    return sorted(zip(adjacency.index.tolist(), adjacency.targets().tolist(), strict=True))


@pytest.mark.parametrize("kind", [*LISTS, *MATRICES])
def test_every_kind_of_input_gives_the_same_edges_in_plain_int64_tensors(kind):
    adjacency = to_adjacency((LISTS | MATRICES)[kind], *SIZE)
    assert edges_of(adjacency) == sorted(map(tuple, SIMPLE.t().tolist()))
    assert_close(adjacency.ptr, torch.tensor([0, 2, 3, 5, 5]))
    assert adjacency.num_sources == NUM_SOURCES
    assert adjacency.num_targets == NUM_TARGETS
    for tensor in (adjacency.ptr, adjacency.index):
        assert type(tensor) is torch.Tensor
        assert tensor.dtype == torch.int64


@pytest.mark.parametrize("kind", LISTS)
def test_edge_features_follow_their_edges(kind):
    edge_index = torch.as_tensor(LISTS[kind]).long()
    adjacency = to_adjacency(LISTS[kind], *SIZE)
    features = edge_index[0] * 10 + edge_index[1]
    assert_close(
        torch.as_tensor(adjacency.sort(features)), adjacency.index * 10 + adjacency.targets()
    )


def test_transpose_turns_every_edge_and_says_where_it_was():
    adjacency = to_adjacency(EDGES, *SIZE)
    ptr, index, place = transpose(adjacency.ptr, adjacency.index, NUM_SOURCES)
    assert_close(ptr, torch.tensor([0, 2, 3, 4, 6, 6]))
    assert_close(index, adjacency.targets()[place])
    assert_close(targets_of(ptr, len(EDGES[0])), adjacency.index[place])


def test_an_edge_that_is_there_twice_counts_twice():
    assert_close(to_adjacency(EDGES, *SIZE).degree(), torch.tensor([2, 2, 2, 0]))


def test_edges_in_order_are_not_sorted_again():
    assert to_adjacency(BY_COL, *SIZE).order is None


def test_an_adjacency_passes_through_as_it_is():
    adjacency = to_adjacency(SIMPLE, *SIZE)
    assert to_adjacency(adjacency, *SIZE) is adjacency


@pytest.mark.parametrize("size", [(0, 0), (3, 0), (0, 3), (3, 3)])
def test_graph_without_edges_has_an_empty_row_for_every_target(size):
    num_sources, num_targets = size
    none = torch.zeros(2, 0, dtype=torch.long)
    empty = torch.zeros(num_targets, num_sources)
    inputs = [none, EdgeIndex(none, sparse_size=size, sort_order="col")]
    inputs += [empty.to_sparse_coo(), empty.to_sparse_csr()]
    for edge_index in inputs:
        adjacency = to_adjacency(edge_index, *size)
        assert_close(adjacency.ptr, torch.zeros(num_targets + 1, dtype=torch.long))
        assert adjacency.index.numel() == adjacency.targets().numel() == 0


def test_compiled_entrance_gives_the_eager_adjacency():
    compiled = torch.compile(
        lambda edges: to_adjacency(edges, *SIZE)[:2], backend="aot_eager", fullgraph=True
    )
    assert_close(compiled(EDGES), to_adjacency(EDGES, *SIZE)[:2])


def by_target(edges: torch.Tensor) -> EdgeIndex:
    return EdgeIndex(edges, sparse_size=SIZE, sort_order="col")


@pytest.mark.parametrize("wrap", [lambda edges: edges, EdgeIndex, by_target])
@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([[5], [0]], r"source node 5, but there are 5 source nodes \(0 to 4\)"),
        ([[0], [4]], r"target node 4, but there are 4 target nodes \(0 to 3\)"),
    ],
)
def test_node_that_does_not_exist_is_named(wrap, edges, message):
    with pytest.raises(ValueError, match=message):
        to_adjacency(wrap(torch.tensor(edges)), *SIZE)


def test_negative_node_is_named():
    with pytest.raises(ValueError, match="source node -1"):
        to_adjacency(torch.tensor([[0, -1], [0, 0]]), *SIZE)


@pytest.mark.parametrize("layout", MATRICES)
def test_matrix_that_is_not_transposed_is_refused(layout):
    with pytest.raises(ValueError, match=r"4 targets by 5 sources, got shape \(5, 4\)"):
        to_adjacency(MATRICES[layout].to_sparse_coo().t(), *SIZE)


@pytest.mark.parametrize(
    "edges", [torch.zeros(3, 2).long(), torch.zeros(4).long(), torch.zeros(2, 3), EDGES.bool()]
)
def test_tensor_that_is_no_list_of_edges_is_refused_with_its_shape(edges):
    with pytest.raises(ValueError, match=r"must be \(2, E\) int64 or int32, got shape"):
        to_adjacency(edges, *SIZE)


def test_what_is_no_tensor_is_refused_with_its_type():
    with pytest.raises(ValueError, match=r"EdgeIndex or a torch.sparse matrix, got list"):
        to_adjacency([[0], [1]], *SIZE)


TABLE = torch.tensor([[1, 2], [-1, -1], [-1, 0], [0, -1]])


def test_table_of_neighbors_gives_a_row_for_every_node():
    adjacency = from_neighbors(TABLE)
    assert_close(adjacency.ptr, torch.tensor([0, 2, 2, 3, 4]))
    assert_close(adjacency.index, torch.tensor([1, 2, 0, 0]))
    assert adjacency.num_sources == adjacency.num_targets == 4


def test_table_without_any_neighbor_gives_no_edges():
    adjacency = from_neighbors(torch.full((3, 2), -1))
    assert adjacency.index.numel() == 0
    assert_close(adjacency.degree(), torch.zeros(3, dtype=torch.long))


def test_compiled_table_has_the_shape_of_the_table_and_loops_at_the_last_node_behind_the_end():
    compiled = torch.compile(
        lambda table: from_neighbors(table)[:2], backend="aot_eager", fullgraph=True
    )
    ptr, index = compiled(TABLE)
    assert_close(ptr, from_neighbors(TABLE).ptr)
    assert_close(index, torch.tensor([1, 2, 0, 0, 3, 3, 3, 3]))
    assert_close(Adjacency(ptr, index, 4).targets(), torch.tensor([0, 0, 2, 3, 3, 3, 3, 3]))
