"""What only a GPU can show: ``pytest -m cuda``, or all of it with the benchmarks, ``make gpu``."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

import mgic_geo
from mgic_geo.ops.host import is_readable
from tests.clouds import NETWORKS, make_network, outputs_and_gradients
from tests.image_networks import MODELS, build, make_input
from tests.neighbor_clouds import CLOUDS, normal, oracle, ragged_batch
from tests.operators import IN_TRITON, OPERATIONS, make_inputs

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
INPUTS = make_inputs(torch.Generator().manual_seed(0))
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
SIZES = (64, 64, 64)
LOST = """
import torch, mgic_geo
batch = torch.tensor([0, 0, 5, 1], device="cuda")
mgic_geo.knn_indices(
    torch.rand(4, 3, device="cuda"), 1, batch, clouds=mgic_geo.cloud_table(batch, 2)
)
torch.cuda.synchronize()
"""


def on_gpu(value):
    return value.cuda() if isinstance(value, Tensor) else value


def make_points(name: str) -> tuple[nn.Module, tuple]:
    model = make_network(name, dropout=0.0)
    batch = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    return model, (normal(sum(SIZES), 3), batch, len(SIZES))


# Operations


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_an_operation_equals_its_reference_on_a_processor(name):
    operation, inputs = OPERATIONS[name], INPUTS[name]
    expected, found = operation.reference(*inputs), operation(*map(on_gpu, inputs))
    assert_close(found, expected, check_device=False, **CLOSE)


@pytest.mark.parametrize("name", IN_TRITON)
def test_a_kernel_in_triton_equals_the_reference_on_a_processor(name):
    expected = OPERATIONS[name].reference(*INPUTS[name])
    found = IN_TRITON[name].run(*map(on_gpu, INPUTS[name]))
    assert_close(found, expected, check_device=False, **CLOSE)


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("name", CLOUDS)
def test_neighbors_are_those_of_a_processor(name, k):
    x = CLOUDS[name]()
    assert_close(mgic_geo.knn_indices(x.cuda(), k).cpu(), oracle(x, k))


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_tensor_float_32_changes_no_neighbor(precision, monkeypatch):
    x, before = normal(1024, 64), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert_close(mgic_geo.knn_indices(x.cuda(), 10).cpu(), oracle(x, 10))
    finally:
        torch.set_float32_matmul_precision(before)


def test_neighbors_in_clouds_of_unequal_sizes_are_those_of_a_processor():
    x, batch = ragged_batch()
    found = mgic_geo.knn_graph(x.cuda(), 6, batch.cuda())
    assert_close(found.as_tensor().cpu(), mgic_geo.knn_graph(x, 6, batch).as_tensor())


def test_sums_along_an_outer_axis_are_added_one_after_another():
    x = torch.rand(64, 1000, dtype=torch.float64) * 10.0 ** torch.randint(-8, 8, (64, 1000))
    expected = torch.zeros(1000, dtype=torch.float64)
    for row in x:
        expected = expected + row
    assert_close(x.cuda().cumsum(0)[-1].cpu(), expected, rtol=0, atol=0)


# Networks


@pytest.mark.parametrize("name", NETWORKS)
def test_point_networks_agree_with_a_processor(name):
    model, inputs = make_points(name)
    expected = outputs_and_gradients(model, *inputs)
    found = outputs_and_gradients(model.cuda(), *map(on_gpu, inputs))
    assert_close(found, expected, check_device=False, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("name", MODELS)
def test_image_networks_agree_with_a_processor(name):
    model = build(name).double()
    x = make_input(model).double()
    expected = outputs_and_gradients(model, x)
    found = outputs_and_gradients(model.cuda(), x.cuda())
    assert_close(found, expected, check_device=False, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_point_networks_train_in_mixed_precision(name, dtype):
    model, inputs = make_points(name)
    with torch.autocast("cuda", dtype):
        found = outputs_and_gradients(model.cuda(), *map(on_gpu, inputs))
    assert all(each.isfinite().all() for each in found)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@pytest.mark.parametrize("name", ["dgcnn", "mgic_dgcnn, additive", "diffgcn", "mgic_diffgcn"])
def test_a_training_step_waits_for_nothing(name):
    model, inputs = make_points(name)
    model, inputs = model.cuda(), tuple(map(on_gpu, inputs))
    target = torch.arange(len(SIZES), device="cuda")
    functional.cross_entropy(model(*inputs), target).backward()
    try:
        torch.cuda.set_sync_debug_mode("error")
        functional.cross_entropy(model(*inputs), target).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["dgcnn", "mgic_diffgcn"])
def test_a_training_step_is_captured_in_a_cuda_graph(name):
    model, (pos, batch, count) = make_points(name)
    model, pos, batch = model.cuda(), pos.cuda(), batch.cuda()

    def step() -> Tensor:
        model.zero_grad(set_to_none=False)
        loss = model(pos, batch, count).square().mean()
        loss.backward()
        return loss

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    pos.copy_(normal(*pos.shape, seed=7))
    graph.replay()
    expected = model(pos, batch, count).square().mean()
    assert_close(loss, expected, **CLOSE)


@pytest.mark.parametrize("name", ["dgcnn", "diffgcn"])
def test_a_network_is_compiled_to_cuda_graphs(name):
    model, inputs = make_points(name)
    model, inputs = model.cuda().eval(), tuple(map(on_gpu, inputs))
    compiled = torch.compile(model, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(3):
            found = compiled(*inputs).clone()
        assert_close(found, model(*inputs), **CLOSE)


def test_inference_is_the_same_again_and_again():
    model, inputs = make_points("mgic_dgcnn")
    model, inputs = model.cuda().eval(), tuple(map(on_gpu, inputs))
    with torch.no_grad():
        first = model(*inputs)
        assert_close([model(*inputs) for _ in range(3)], [first] * 3, rtol=0, atol=0)


def test_two_streams_do_not_disturb_each_other():
    model, inputs = make_points("mgic_diffgcn")
    model, inputs = model.cuda().eval(), tuple(map(on_gpu, inputs))
    with torch.no_grad():
        expected = model(*inputs)
        streams, found = [torch.cuda.Stream() for _ in range(2)], []
        for stream in streams * 3:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                found.append(model(*inputs))
        torch.cuda.synchronize()
    assert_close(found, [expected] * 6, **CLOSE)


def test_pinned_batches_of_a_loader_are_taken():
    model = mgic_geo.create_model("dgcnn").cuda().eval()
    loader = DataLoader(TensorDataset(normal(4, 64, 3)), batch_size=2, pin_memory=True)
    batch = torch.arange(2, device="cuda").repeat_interleave(64, output_size=128)
    for (pos,) in loader:
        assert pos.is_pinned()
        y = model(pos.cuda(non_blocking=True).flatten(0, 1), batch, 2)
        assert y.isfinite().all()


def test_values_on_a_gpu_are_not_read():
    assert not is_readable(torch.ones(1, device="cuda"))


def test_a_cloud_that_does_not_exist_ends_the_computation_with_a_message():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOST],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ},
    )
    assert done.returncode != 0
    assert "batch" in done.stderr or "assert" in done.stderr
