import json
from dataclasses import replace

import oracles
import pytest
import torch
from torch.testing import assert_close

from mgic_geo import num_weights
from scripts import compare
from scripts.experiments.pages import read_rows
from scripts.experiments.rivals import maps, matching, units
from scripts.experiments.rivals.comparison import RATES, Optimizer, make_trial
from scripts.experiments.rivals.tasks import TASKS
from scripts.experiments.rivals.units import DENSE, MGIC, RIVALS, Unit


def matrix(layer, channels):
    """The matrix of a linear layer, its bias taken off."""
    zero = layer(torch.zeros(1, channels, dtype=torch.float64))
    return (layer(torch.eye(channels, dtype=torch.float64)) - zero).T


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 12), (12, 24), (24, 12)])
def test_monarch_is_two_block_diagonal_matrices_with_transpositions(inputs, outputs):
    layer = maps.MonarchLinear(inputs, outputs, blocks=3).double()
    first = oracles.block_diagonal(layer.first.weight)
    second = oracles.block_diagonal(layer.second.weight)
    middle = torch.arange(12).view(4, 3).t().flatten()  # the r-th of l goes to place l of r
    last = torch.arange(outputs).view(3, -1).t().flatten()
    assert_close(matrix(layer, inputs), (second @ first[middle])[last])


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 12), (12, 24), (24, 12)])
def test_block_tensor_train_is_its_sum(inputs, outputs):
    layer = maps.BlockTensorTrain(inputs, outputs, rank=2).double()
    layer.second.bias.data.zero_()
    n1, m2 = layer.blocks, layer.columns
    right = layer.first.weight.view(n1, m2, 2, inputs // n1)  # gamma, beta, sigma, delta
    left = layer.second.weight.view(m2, outputs // m2, n1, 2)  # beta, alpha, gamma, sigma
    x = torch.randn(3, inputs, dtype=torch.float64)
    expected = torch.einsum("bags,gbsd,ngd->nab", left, right, x.view(3, n1, -1)).flatten(1)
    assert_close(layer(x), expected)


def test_blast_has_blocks_that_share_their_factors():
    layer = maps.BlastLinear(12, 8, blocks=2, rank=3).double()
    rows = []
    for i in range(2):
        scale, up, down = layer.scale[i], layer.up.weight[i], layer.down.weight
        rows.append(torch.cat([up @ scale[j].diag() @ down[j] for j in range(2)], 1))
    assert_close(matrix(layer, 12), torch.cat(rows))


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 24), (24, 8)])
def test_butterfly_is_the_product_of_its_factors(inputs, outputs):
    layer = maps.ButterflyLinear(inputs, outputs, products=2).double()
    copies = []
    for copy in range(layer.copies):
        product = torch.eye(8, dtype=torch.float64)
        for factor in layer.factors:
            _, pairs, _, _, distance = factor.shape
            dense = torch.zeros(8, 8, dtype=torch.float64)
            for pair in range(pairs):
                for place in range(distance):
                    at = [2 * distance * pair + place, 2 * distance * pair + place + distance]
                    for i in range(2):
                        for j in range(2):
                            dense[at[i], at[j]] = factor[copy, pair, i, j, place]
            product = dense @ product
        copies.append(product)
    shrink = torch.cat(copies, 1) / len(copies) ** 0.5
    expected = torch.cat(copies) if outputs >= inputs else shrink
    assert_close(matrix(layer, inputs), expected)
    few = torch.randn(3, inputs, dtype=torch.float64)
    many = torch.cat([few] * 20)
    assert_close(layer(many), torch.cat([layer(few)] * 20))


def test_shuffle_lets_a_group_reach_all_groups_of_the_next_map():
    pair = torch.nn.Sequential(
        maps.ShuffledLinear(16, 16, groups=4), maps.ShuffledLinear(16, 16, groups=4)
    ).double()
    assert (matrix(pair, 16) != 0).all()


def test_half_of_ghosts_channels_are_scaled_copies():
    layer = maps.GhostLinear(6, 7).double()
    dense = matrix(layer, 6)
    assert_close(dense[4:], dense[:3] * layer.scale.unsqueeze(1))


@pytest.mark.parametrize("kind", RIVALS)
def test_rivals_of_equal_weights_have_them(kind):
    unit = matching.of_equal_weights(kind)
    assert abs(num_weights(unit.make()) / num_weights(MGIC.make()) - 1) < 0.03
    assert unit.make()(torch.randn(3, units.WIDTH)).shape == (3, units.WIDTH)


@pytest.mark.parametrize(  # the sizes of BLAST, many hundreds, take as long as all others
    "kind", [k if k != "BLAST" else pytest.param(k, marks=pytest.mark.slow) for k in RIVALS]
)
def test_rivals_of_equal_time_are_the_nearest_by_the_clock(kind, monkeypatch):
    monkeypatch.setattr(matching, "step_seconds", lambda unit: num_weights(unit) * 1e-6)
    unit = matching.of_equal_time(kind, 0.05)
    assert abs(num_weights(unit.make()) / 50_000 - 1) < 0.06


@pytest.mark.parametrize(
    ("task", "unit"), [("function", DENSE), ("text", MGIC)], ids=["dense", "MGIC"]
)
def test_a_run_repeats_bit_for_bit_and_learns(task, unit, tmp_path, monkeypatch):
    whole, results = TASKS[task], []
    few = {"held_out": lambda: whole.held_out()[:2], "test": lambda: whole.test()[:2]}
    monkeypatch.setitem(TASKS, task, replace(whole, **few))
    for place, steps in (("one", 2), ("two", 2), ("more", 10)):
        trial = make_trial(unit, task, steps, 0.002, 1, tmp_path / place)
        trial.run(float("inf"))
        results.append(trial.read())
    one, two, more = results
    assert (one["loss"], one["score"]) == (two["loss"], two["score"])
    assert more["loss"] < one["loss"]


def steps(x, level):
    """The block of one level as the page has it: ``x + F(LayerNorm(x))``."""
    norm, layer = level.branch
    return x + layer(torch.nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias))


def test_unit_of_mgic_is_the_cycle_around_the_block_of_its_rivals():
    torch.manual_seed(0)
    block = MGIC.make().double().block
    x = torch.randn(5, units.WIDTH, dtype=torch.float64)
    fine, middle, coarse = block.layers
    x1 = block.restrict[0](x)
    x2 = block.restrict[1](x1)
    up = torch.nn.functional.layer_norm(block.prolong[1](steps(x2, coarse) - x2), (64,))
    up = steps(x1 + up, middle) - x1
    up = torch.nn.functional.layer_norm(block.prolong[0](up), (128,))
    assert_close(block.change(x), steps(x + up, fine) - x)


@pytest.mark.parametrize("kind", ["dense", *RIVALS])
def test_unit_of_a_rival_sees_its_input_through_a_norm(kind):
    torch.manual_seed(0)
    unit = DENSE if kind == "dense" else Unit(kind, options=matching.sizes(kind)[0])
    layer, x = unit.make().double(), torch.randn(3, units.WIDTH, dtype=torch.float64)
    assert_close(layer(x), layer(7 * x + 2), rtol=1e-4, atol=1e-4)
    assert not layer(x).isclose(layer(x.flip(-1))).all()


def fake(folder, errors):
    """Results of two seeds for every unit and task, and the sizes that they belong to."""
    found = [DENSE, MGIC, Unit("narrow", "weights", {"inner": 144})]
    rows = [{"kind": u.kind, "matched": u.matched, "options": u.options} for u in found]
    (folder / "sizes.json").write_text(json.dumps(rows))
    for unit in found:
        for task in TASKS:
            for rate, seed in (*((rate, 0) for rate in RATES), (0.002, 1)):
                trial = make_trial(unit, task, 200, rate, seed, folder)
                result = {"score": errors[unit.kind] + seed, "val": abs(rate - 0.002)}
                trial.path.write_text(json.dumps({"run": trial.describe(), "result": result}))


def run(folder, *more):
    return compare.main(["rivals", "--runs", str(folder), "--docs", str(folder), *more])


def test_page_says_who_is_better_by_ranges_and_what_is_missing(tmp_path):
    fake(tmp_path, {"dense": 1.5, "MGIC": 3.0, "narrow": 7.0})
    assert run(tmp_path, "--page-only", "--seeds", "2") == 0
    text = (tmp_path / "rivals.md").read_text()
    assert "| narrow | weights | better (-4.000) | better (-4.000) |" in text
    assert "| dense | - | worse (+1.500) |" in text
    assert "At equal weights MGIC is better in 4, same in 0, worse in 0 of 4" in text
    assert "At equal time: nothing can be said yet" in text
    assert "not done yet" not in text
    assert run(tmp_path, "--page-only", "--seeds", "3", "--tasks", "text") == 0
    assert "**3 of 9 runs are not done yet**" in (tmp_path / "rivals.md").read_text()
    assert "(seeds: 2)" in (tmp_path / "rivals.md").read_text()


def test_cores_of_a_block_tensor_train_have_rates_by_their_inputs():
    layer = maps.BlockTensorTrain(64, 256, rank=2)
    groups = Optimizer(lr=0.1).make_optimizer(torch.nn.Sequential(layer)).param_groups
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert rates[layer.first.weight] == pytest.approx(0.1 * 64 / 8 / 2)
    assert rates[layer.second.weight] == pytest.approx(0.1 * 64 / 16 / 2)
    assert rates[layer.second.bias] == 0.1


@pytest.mark.parametrize("name", ["text", "image"])
def test_what_is_held_out_is_never_trained_with(name):
    task, generator = TASKS[name], torch.Generator().manual_seed(0)

    def samples(batches):
        rows = [x.view(len(y), -1) for x, *_, y in batches]
        return {row.tobytes() for row in torch.cat(rows).numpy()}

    assert samples(task.draw(generator) for _ in range(20)).isdisjoint(samples(task.held_out()))


def test_only_runs_that_are_missing_are_trained_and_those_of_another_network_refused(
    tmp_path, capsys
):
    fake(tmp_path, {"dense": 1.0, "MGIC": 2.0, "narrow": 3.0})
    path = tmp_path / "text-narrow-weights-0.002-1.json"
    run_of = json.loads(path.read_text())["run"]
    path.unlink()
    where = ["--seeds", "2", "--tasks", "text", "--steps", "200"]
    assert run(tmp_path, *where, "--minutes", "0") == 0
    assert not path.exists()
    rows = {row["model"]: row for row in read_rows(tmp_path / "rivals.csv")}
    assert (rows["narrow"]["text_runs"], rows["narrow"]["text_max"]) == ("1", "3.0")
    path.write_text(json.dumps({"run": run_of | {"weights": 1}, "result": {"score": 9.0}}))
    assert run(tmp_path, *where, "--page-only") == 1
    assert "weights: 1 -> " in capsys.readouterr().err
