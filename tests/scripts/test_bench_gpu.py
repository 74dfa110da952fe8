"""The benchmarks of a GPU, as far as a processor can run them."""

import argparse
import json
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from mgic_geo import knn_graph
from mgic_vision import create_model
from scripts import bench, gpu_page
from scripts.benchmarks import gpu, images, tensor_baselines
from tests.neighbor_clouds import normal

CPU = torch.device("cpu")


def test_the_search_by_the_product_finds_the_point_itself_and_the_nearest_others():
    x = normal(2, 3, 30)
    places = tensor_baselines.product_knn(x, 6)
    assert_close(places[:, :, 0], torch.arange(30).expand(2, -1))
    batch = torch.arange(2).repeat_interleave(30)
    expected = knn_graph(x.transpose(1, 2).flatten(0, 1), 5, batch).as_tensor()[0]
    assert_close(places[1, :, 1:] + 30, expected[150:].view(30, 5))


def test_edges_of_the_product_are_those_of_its_table():
    x = normal(20, 3)
    source, target = tensor_baselines.product_knn_graph(x, 4, 2)
    assert_close(target, torch.arange(20).repeat_interleave(4))
    assert_close(source // 10, target // 10)


def test_edge_features_hold_the_difference_and_the_center():
    x = normal(2, 3, 10)
    features = tensor_baselines.edge_features(x, 4)
    assert features.shape == (2, 6, 10, 4)
    assert_close(features[:, 3:, :, 1], x)
    assert_close(features[:, :3, :, 0], torch.zeros(2, 3, 10))  # of the point itself


def test_every_contender_of_points_runs():
    suite = gpu.point_suite(CPU, 3, 40)
    for run in suite.contenders.values():
        run()
    for pair in suite.pairs:
        assert {pair.slow, pair.fast} <= set(suite.contenders)


def test_every_width_runs():
    suite = gpu.width_suite(CPU, (16, 32), 64)
    for run in suite.contenders.values():
        run()
    assert set(suite.curves) == {"dense", "MGIC"}


def test_image_networks_are_prepared_alike(monkeypatch):
    with torch.device("meta"):
        assert all(make().num_classes == 1000 for make in images.NETWORKS.values())
    names = {gpu.MGIC_RESNET: "mgic_resnet56", gpu.RESNET: "resnet56"}
    small = {key: partial(create_model, name, depth=8) for key, name in names.items()}
    monkeypatch.setattr(images, "NETWORKS", small)
    suite = gpu.image_suite(CPU, gpu.MGIC_RESNET, gpu.RESNET, 1, 32)
    assert list(suite.contenders)[:2] == [
        "mgic_resnet50, s_g = 16, as it is",
        "resnet50, as it is",
    ]
    assert len(suite.pairs) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(capsys):
    with pytest.raises(SystemExit):
        bench.main(["points", "--device", "cuda"])
    assert "--device cuda needs a GPU, and PyTorch sees none" in capsys.readouterr().err


def test_a_benchmark_without_a_form_for_gpus_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["memory", "--device", "cuda"])
    assert "--device cuda has points and images, not memory" in capsys.readouterr().err


def test_what_the_first_run_leaves_behind_is_no_peak(monkeypatch):
    runs = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100 if runs else 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 107)
    assert gpu.peak_bytes(lambda: runs.append(1)) == 7
    assert len(runs) == 2


def test_suites_follow_the_benchmark(monkeypatch):
    monkeypatch.setattr(gpu, "WIDTHS", (16, 32))
    arguments = argparse.Namespace(benchmark="points", device="cpu", clouds=2, points=30)
    assert [suite.title.partition(",")[0] for suite in gpu.make_suites(arguments)] == [
        "training step",
        "inference",
    ]


def test_without_a_report_the_page_says_that_nothing_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_page, "PAGE", tmp_path / "page.md")
    gpu_page.main()
    assert "Nothing was measured on a GPU" in gpu_page.PAGE.read_text()


def test_with_a_report_the_page_names_the_card(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_page, "PAGE", tmp_path / "page.md")
    report = {"benchmark": "points", "results": []}
    report["machine"] = {"card": "some card", "cuda": "13.0", "versions": {"torch": "2"}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    gpu_page.main(str(tmp_path / "report.json"))
    assert "Card: some card, CUDA 13.0, torch 2." in gpu_page.PAGE.read_text()
