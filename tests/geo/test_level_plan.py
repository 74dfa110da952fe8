import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgic_geo import level_plan
from mgic_geo.levels import group_count

WIDTHS = st.integers(1, 600)
SIZES = st.integers(1, 80)
PLANS = settings(deadline=None, max_examples=200, database=None, derandomize=True)


# worked by hand from the rule: (channels, inner, group_size, coarse_size, min_levels), rows of the
# plan
TABLES = [
    ((64, None, 16, 16, 1), [(64, 64, 4), (32, 32, 2), (16, 16, 1)]),
    ((64, None, 8, 16, 1), [(64, 64, 8), (32, 32, 4), (16, 16, 1)]),
    ((64, None, 8, 8, 1), [(64, 64, 8), (32, 32, 4), (16, 16, 2), (8, 8, 1)]),
    ((256, 64, 16, 64, 1), [(256, 64, 4), (128, 32, 1)]),
    ((40, 120, 8, 8, 1), [(40, 120, 5), (20, 60, 4), (10, 30, 2), (5, 15, 1)]),
    ((40, 120, 16, 20, 1), [(40, 120, 4), (20, 60, 1)]),  # the next divisor above two and a half
    ((40, 120, 64, 64, 1), [(40, 120, 1), (20, 60, 1)]),  # one group of 40
    ((120, 40, 64, 64, 1), [(120, 40, 1), (60, 20, 1)]),
    ((184, None, 8, 16, 1), [(184, 184, 23), (92, 92, 4), (46, 46, 2), (23, 23, 1), (11, 11, 1)]),
    ((72, None, 16, 16, 1), [(72, 72, 6), (36, 36, 3), (18, 18, 2), (9, 9, 1)]),
    ((96, None, 8, 16, 1), [(96, 96, 12), (48, 48, 6), (24, 24, 3), (12, 12, 1)]),
    ((3, 100, 1, 1, 1), [(3, 100, 1), (1, 50, 1)]),
    ((7, None, 2, 1, 1), [(7, 7, 7), (3, 3, 3), (1, 1, 1)]),
    ((1, None, 8, 8, 1), [(1, 1, 1)]),
    # a narrow layer gets as many coarser levels as asked for, down to one channel
    ((16, None, 64, 64, 0), [(16, 16, 1)]),
    ((16, None, 64, 64, 1), [(16, 16, 1), (8, 8, 1)]),
    ((16, None, 64, 64, 2), [(16, 16, 1), (8, 8, 1), (4, 4, 1)]),
    ((64, None, 8, 64, 0), [(64, 64, 1)]),
    ((2, None, 8, 8, 5), [(2, 2, 1), (1, 1, 1)]),
    # a wide one as many as it has anyway
    ((64, None, 16, 16, 0), [(64, 64, 4), (32, 32, 2), (16, 16, 1)]),
    ((64, None, 16, 16, 2), [(64, 64, 4), (32, 32, 2), (16, 16, 1)]),
]


@pytest.mark.fault(37)
@pytest.mark.parametrize(("arguments", "expected"), TABLES)
def test_plan_equals_the_table_worked_by_hand(arguments, expected):
    channels, inner, group_size, coarse_size, min_levels = arguments
    sizes = {"group_size": group_size, "coarse_size": coarse_size, "min_levels": min_levels}
    plan = level_plan(channels, inner, **sizes)
    assert [(level.outer, level.inner, level.groups) for level in plan] == expected


@pytest.mark.fault(37)
@PLANS
@given(WIDTHS, WIDTHS, SIZES, SIZES, st.integers(0, 4))
def test_every_plan_keeps_the_rule(channels, inner, group_size, coarse_size, min_levels):
    plan = level_plan(
        channels, inner, group_size=group_size, coarse_size=coarse_size, min_levels=min_levels
    )
    assert [level.index for level in plan] == list(range(len(plan)))
    assert [level.finest for level in plan] == [True] + [False] * (len(plan) - 1)
    assert [level.coarsest for level in plan] == [False] * (len(plan) - 1) + [True]
    assert plan[-1].groups == 1
    for level in plan:
        assert level.outer % level.groups == 0
        assert level.inner % level.groups == 0
        assert (level.outer, level.inner) == (channels >> level.index, inner >> level.index)
    for fine, coarse in itertools.pairwise(plan):
        assert coarse.groups < fine.groups or coarse.groups == fine.groups == 1
    narrow = [min(level.outer, level.inner) for level in plan]
    assert narrow[-1] <= coarse_size
    if len(plan) > min_levels + 1:  # no further than needed
        assert narrow[-2] > coarse_size


@PLANS
@given(WIDTHS, WIDTHS, SIZES)
def test_group_count_is_the_smallest_divisor_that_keeps_groups_small(outer, inner, group_size):
    fitting = [
        g
        for g in range(1, outer + 1)
        if outer % g == 0 and inner % g == 0 and g >= min(outer, inner) / group_size
    ]
    expected = fitting[0] if fitting else math.gcd(outer, inner)
    assert group_count(outer, inner, group_size=group_size) == expected


@PLANS
@given(WIDTHS, SIZES, st.integers(1, 40))
def test_group_count_below_a_bound_is_the_wanted_one_or_the_next_lower_divisor(width, size, below):
    wanted = group_count(width, group_size=size)
    lower = [g for g in range(1, below) if width % g == 0]
    expected = wanted if wanted < below else max(lower, default=1)
    assert group_count(width, group_size=size, below=below) == expected


@pytest.mark.fault(37)
@pytest.mark.parametrize(
    ("name", "least"),
    [("channels", 1), ("inner", 1), ("group_size", 1), ("coarse_size", 1), ("min_levels", 0)],
)
def test_width_or_size_that_is_too_small_is_refused_by_name(name, least):
    arguments = {"channels": 8, "inner": 8, "group_size": 4, "coarse_size": 4, name: least - 1}
    message = f"{name} must be at least {least}, got {least - 1}"
    with pytest.raises(ValueError, match=message):
        level_plan(**arguments)
    if name == "group_size":
        with pytest.raises(ValueError, match=message):
            group_count(8, group_size=0)


def test_level_prints_its_row_of_the_table():
    (finest, coarsest) = level_plan(40, 120, group_size=16, coarse_size=20)
    assert str(finest).split() == ["0", "40", "120", "4", "10", "finest"]
    assert str(coarsest).split() == ["1", "20", "60", "1", "20", "coarsest"]


def test_level_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        level_plan(8, group_size=4, coarse_size=4)[0].groups = 2
