"""The kernels of images take every batch of images, and refuse by name what does not fit them."""

from typing import NamedTuple

import pytest
import torch
from image_kernels import HALF, LAYERS, make_change, make_native, needs_compiler
from image_networks import build
from torch.testing import assert_close

from mgic_geo.ops.csrc.call import check_fields
from mgic_vision import fuse
from mgic_vision.ops.cycle import NativeCycle
from mgic_vision.ops.grouped_conv import ConvPlan
from mgic_vision.ops.kernel import FOLDER
from mgic_vision.ops.plan import ABSENT, LevelPlan

pytestmark = needs_compiler
REFUSED = (ValueError, MemoryError)
FAR = (-2, 2**40 + 1, 2**62, -(2**63))


def test_no_image_is_an_empty_result_and_no_pixel_an_error():
    cycle, (_, change) = make_native("squeeze-every"), make_change(24, 24 * HALF, stride=2)
    assert cycle(torch.empty(0, 24, 6, 5)).shape == (0, 24, 6, 5)
    assert change(torch.empty(0, 24, 6, 5)).shape == (0, 24 * HALF, 3, 3)
    for module in (cycle, change):
        with pytest.raises(ValueError, match=r"height must be from 1 to \d+, got 0"):
            module(torch.empty(2, 24, 0, 5))
        with pytest.raises(ValueError, match=r"width must be from 1 to \d+, got 0"):
            module(torch.empty(2, 24, 6, 0))
    with pytest.raises((ValueError, RuntimeError)):
        fuse(build("small"))(torch.empty(1, 3, 0, 32))


def test_what_torch_takes_beside_batches_of_images_is_computed_by_torch():
    _, change = make_change(8, 8 * HALF)
    x = torch.randn(2, 8, 6, 5)
    assert_close(change(x[0]), change(x)[0], rtol=1e-4, atol=1e-4)
    for module in (change, make_native("bottleneck")):
        with pytest.raises(RuntimeError, match="channels"):
            module(torch.randn(2, 7, 6, 5))


@pytest.mark.fault(52)
@pytest.mark.parametrize("kind", LAYERS)
def test_nan_in_a_cycle_goes_where_it_goes_in_torch(kind):
    native = make_native(kind)
    x = torch.randn(3, LAYERS[kind][0], 9, 9)
    x[1, 2, 4, 4] = float("nan")
    y, expected = native(x), super(NativeCycle, native).forward(x)
    assert_close(y.isnan(), expected.isnan())
    assert expected[1].isnan().any()


@pytest.mark.fault(52)
def test_nan_in_a_change_of_width_stays():
    change, native = make_change(8, 8 * HALF)
    x = torch.randn(2, 8, 6, 6)
    x[1, 2, 3, 3] = float("nan")
    assert native(x).isnan()[change(x).isnan()].all()
    assert not native(x)[0].isnan().any()


def read_fields(plan: torch.Tensor):
    """Level, column and name of every field that the kernel follows."""
    for level, row in enumerate(plan.tolist()):
        for column, name in enumerate(LevelPlan._fields):
            last = level + 1 == len(plan) and name.startswith(("restrict", "prolong"))
            if not last and row[column] != ABSENT:
                yield level, column, name


@pytest.mark.parametrize("kind", LAYERS)
def test_a_plan_that_leads_out_of_its_weights_is_refused(kind):
    plan, weights = make_native(kind).pack()
    x = torch.randn(2, LAYERS[kind][0], 5, 6)
    for level, column, name in read_fields(plan):
        offset = name.endswith(("_weight", "_bias")) or name in ("scale", "shift")
        for value in (*FAR, *[weights.numel()] * offset):
            changed = plan.clone()
            changed[level, column] = value
            with pytest.raises(REFUSED, match=name if offset else None):
                torch.ops.mgic_vision.cycle(x, changed, weights)
    for short in (plan[:0], plan[:-1], plan[1:], plan.flatten()[:-1], plan.repeat(20, 1)):
        with pytest.raises(ValueError, match=r"plan|coarse|x must have"):
            torch.ops.mgic_vision.cycle(x, short.contiguous(), weights)
    with pytest.raises(ValueError, match="must leave"):
        torch.ops.mgic_vision.cycle(x, plan, weights[: weights.numel() // 2])


@pytest.mark.parametrize("kind", ["bottleneck", "basic", "squeeze-every"])
def test_any_plan_is_refused_or_computed(kind):
    plan, weights = make_native(kind).pack()
    generator, computed = torch.Generator().manual_seed(0), 0
    x = torch.randn(1, LAYERS[kind][0], 4, 3)
    for _ in range(300):
        changed = plan.flatten().clone()
        for _ in range(int(torch.randint(1, 4, (), generator=generator))):
            place = torch.randint(plan.numel(), (), generator=generator)
            changed[place] = torch.randint(-1, 33, (), generator=generator)
        try:
            y = torch.ops.mgic_vision.cycle(x, changed.view_as(plan), weights)
        except REFUSED:
            continue
        assert y.shape == x.shape
        computed += 1
    assert computed > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.randn(2, 24, 5, 5).double()}, "x must be torch.float32"),
        ({"x": torch.randn(2, 23, 5, 5)}, "x must have 1200 numbers, got 1150"),
        ({"x": torch.empty(2, 24, 5, 5, device="meta")}, "on meta"),
        ({"plan": torch.zeros(3, 30)}, "plan must be torch.int64"),
        ({"plan": torch.zeros(3, 60, dtype=torch.int64)[:, ::2]}, "plan must be in order"),
        (
            {"plan": torch.zeros(3, 30, dtype=torch.int64, device="meta")},
            "got x on cpu, plan on meta",
        ),
        ({"weights": torch.randn(20000).half()}, "weights must be torch.float32"),
        ({"weights": torch.randn(40000)[::2]}, "weights must be in order"),
        ({"weights": torch.randn(20000).to_sparse()}, "weights must be .* on a processor"),
    ],
)
def test_tensors_of_another_kind_are_refused_by_name(changes, message):
    plan, weights = make_native("squeeze-every").pack()
    arguments = {"x": torch.randn(2, 24, 5, 5), "plan": plan, "weights": weights, **changes}
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=message):
        torch.ops.mgic_vision.cycle(*arguments.values())


def test_sizes_that_do_not_fit_a_convolution_are_refused():
    _, native = make_change(24, 24 * HALF, stride=2)
    begins, weight, bias, sizes = native.pack()
    run, x = torch.ops.mgic_vision.grouped_conv, torch.randn(2, 24, 5, 6)
    for place, name in enumerate(ConvPlan._fields[:-1]):
        near = 3 if name == "activation" else 0 if name in ("stride", "dilation") else 40
        for value in (*FAR, near):
            changed = [*sizes[:place], value, *sizes[place + 1 :]]
            with pytest.raises((*REFUSED, RuntimeError)):
                run(x, begins, weight, bias, changed)
    for wrong in (begins - 1, begins + 24, begins[:-1], begins.repeat(2)):
        with pytest.raises(ValueError, match="begins"):
            run(x, wrong, weight, bias, sizes)
    with pytest.raises(ValueError, match="weight must have"):
        run(x, begins, weight[1:], bias, sizes)
    with pytest.raises(ValueError, match="bias must have"):
        run(x, begins, weight, bias[1:], sizes)
    with pytest.raises(TypeError, match="bias must be"):
        run(x, begins, weight, bias.double(), sizes)
    with pytest.raises(ValueError, match="sizes must be"):
        run(x, begins, weight, bias, sizes[1:])


def test_a_layout_that_differs_from_the_header_is_refused_by_its_first_field():
    class Swapped(NamedTuple):
        channels: int
        groups: int
        inner: int

    with pytest.raises(ValueError, match=r"Swapped has groups where level of plan\.h has inner"):
        check_fields(Swapped, "plan.h", "level", FOLDER)
