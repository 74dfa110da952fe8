import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgic_geo import Level, level_plan
from mgic_geo.levels import group_count

WIDTHS = st.integers(1, 600)
SIZES = st.integers(1, 80)
PLANS = settings(deadline=None, max_examples=200, database=None, derandomize=True)


def rows(plan: tuple[Level, ...]) -> list[tuple[int, int, int]]:
    return [(level.outer, level.inner, level.groups) for level in plan]


# worked by hand from the rule: (channels, inner, group_size, coarse_size), rows of the plan
TABLES = [
    ((64, None, 16, 16), [(64, 64, 4), (32, 32, 2), (16, 16, 1)]),
    ((64, None, 8, 16), [(64, 64, 8), (32, 32, 4), (16, 16, 1)]),
    ((64, None, 8, 8), [(64, 64, 8), (32, 32, 4), (16, 16, 2), (8, 8, 1)]),
    ((256, 64, 16, 64), [(256, 64, 4), (128, 32, 1)]),
    ((16, None, 64, 64), [(16, 16, 1), (8, 8, 1)]),
    ((40, 120, 8, 8), [(40, 120, 5), (20, 60, 4), (10, 30, 2), (5, 15, 1)]),
    ((120, 40, 64, 64), [(120, 40, 1), (60, 20, 1)]),
    ((184, None, 8, 16), [(184, 184, 23), (92, 92, 4), (46, 46, 2), (23, 23, 1), (11, 11, 1)]),
    ((72, None, 16, 16), [(72, 72, 6), (36, 36, 3), (18, 18, 2), (9, 9, 1)]),
    ((96, None, 8, 16), [(96, 96, 12), (48, 48, 6), (24, 24, 3), (12, 12, 1)]),
    ((3, 100, 1, 1), [(3, 100, 1), (1, 50, 1)]),
    ((7, None, 2, 1), [(7, 7, 7), (3, 3, 3), (1, 1, 1)]),
    ((1, None, 8, 8), [(1, 1, 1)]),
]  # fmt: skip


@pytest.mark.fault(37)
@pytest.mark.parametrize(("arguments", "expected"), TABLES)
def test_plan_equals_the_table_worked_by_hand(arguments, expected):
    channels, inner, group_size, coarse_size = arguments
    plan = level_plan(channels, inner, group_size=group_size, coarse_size=coarse_size)
    assert rows(plan) == expected


@pytest.mark.fault(37)
def test_120_and_40_channels_at_64_are_one_group_of_40():
    finest = level_plan(40, 120, group_size=64, coarse_size=64)[0]
    assert (finest.groups, finest.group_width) == (1, 40)


def test_group_count_of_40_at_16_is_four_as_the_next_divisor_above_two_and_a_half():
    assert group_count(40, 120, group_size=16) == 4


@pytest.mark.fault(37)
def test_184_channels_at_8_do_not_keep_23_groups():
    plan = level_plan(184, group_size=8, coarse_size=8)
    assert [level.groups for level in plan[:3]] == [23, 4, 2]


@pytest.mark.parametrize("min_levels", [0, 1, 2])
def test_narrow_width_gets_exactly_min_levels_coarser_levels(min_levels):
    plan = level_plan(16, group_size=64, coarse_size=64, min_levels=min_levels)
    assert [level.outer for level in plan] == [16, 8, 4][: min_levels + 1]


def test_min_levels_0_at_the_coarse_size_is_one_dense_level():
    (level,) = level_plan(64, group_size=8, coarse_size=64, min_levels=0)
    assert level == Level(0, 64, 64, 1, finest=True, coarsest=True)


def test_min_levels_does_not_shorten_the_plan_of_a_wide_layer():
    plans = [level_plan(256, group_size=8, coarse_size=32, min_levels=n) for n in (0, 1, 3)]
    assert plans[0] == plans[1] == plans[2]


def test_width_1_is_not_halved_whatever_min_levels_says():
    assert rows(level_plan(2, group_size=8, coarse_size=8, min_levels=5)) == [(2, 2, 1), (1, 1, 1)]


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
@pytest.mark.parametrize("name", ["channels", "inner", "group_size", "coarse_size"])
def test_width_or_size_below_1_is_refused_by_name(name):
    arguments = {"channels": 8, "inner": 8, "group_size": 4, "coarse_size": 4, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        level_plan(**arguments)


def test_negative_min_levels_is_refused():
    with pytest.raises(ValueError, match="min_levels must be at least 0, got -1"):
        level_plan(8, group_size=4, coarse_size=4, min_levels=-1)


def test_group_count_refuses_a_group_size_of_0():
    with pytest.raises(ValueError, match="group_size must be at least 1, got 0"):
        group_count(8, group_size=0)


def test_level_prints_its_row_of_the_table():
    (finest, coarsest) = level_plan(40, 120, group_size=16, coarse_size=20)
    assert str(finest).split() == ["0", "40", "120", "4", "10", "finest"]
    assert str(coarsest).split() == ["1", "20", "60", "1", "20", "coarsest"]


def test_level_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        level_plan(8, group_size=4, coarse_size=4)[0].groups = 2
