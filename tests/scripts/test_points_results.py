from scripts import points_results
from scripts.points_results import CONTENDERS


def runs_of(accuracy):
    """Two runs of every model, three points apart around its accuracy."""
    keys = ("test", "test-class", "test-hard", "test-hard-class")
    return {
        contender.name: [dict.fromkeys(keys, accuracy(contender.name) + shift) for shift in (0, 3)]
        for contender in CONTENDERS
    }


def test_page_tells_differences_and_whether_ranges_overlap(tmp_path, monkeypatch):
    times = {contender.name: 1.25 for contender in CONTENDERS}
    monkeypatch.setattr(points_results, "epoch_seconds", lambda data: times)
    better = {"mgic_diffgcn": 70.0, "diffgcn": 68.0}
    points_results.write_page(runs_of(lambda name: better.get(name, 60.0)), tmp_path)
    page = (tmp_path / "points.md").read_text()
    assert "| neighborhoods: `mgic_diffgcn` - `pointnet` | +10.0 | no |" in page
    assert "| MGIC against its dense twin: `mgic_diffgcn` - `diffgcn` | +2.0 | yes |" in page
    assert "| `mgic_diffgcn` | MGIC, static graph | 72,826 |" in page
    assert "71.5 ± 2.1 (70.0 to 73.0)" in page
    lines = (tmp_path / "points.csv").read_text().splitlines()
    assert len(lines) == 1 + len(CONTENDERS)
    assert (tmp_path / "points.png").read_bytes().startswith(b"\x89PNG")


def test_every_model_is_timed():
    data = {"batch_size": 2, "num_points": 12, "shapes_per_class": [2, 1, 1], "val_fraction": 0.5}
    seconds = points_results.epoch_seconds(data)
    assert seconds.keys() == {contender.name for contender in CONTENDERS}
    assert min(seconds.values()) > 0
