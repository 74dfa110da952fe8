import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from datasets import shapes10
from datasets.damage import damage
from datasets.furniture import EXTENT, Shape, draw_extent, make_shape
from datasets.mesh_cache import CacheWarning
from datasets.modelnet10 import CLASSES as MODELNET10_CLASSES
from datasets.pieces import MAKERS
from datasets.shape_files import read_shape
from datasets.shapes10 import CLASSES, SPLITS, Shapes10, make_split_shape, write_shapes10
from datasets.solids import box, loft, outline, stack, subdivide
from datasets.surface import face_areas

CHECKOUT = Path(__file__).parents[2]
FEW = {"num_train": 2, "num_test": 1, "num_hard": 1}


def draw(name, seed=0, **options):
    return make_shape(name, np.random.default_rng(seed), **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_shapes10(tmp_path_factory.mktemp("shapes"), **FEW)


@pytest.fixture
def boxes(monkeypatch):
    """Write boxes instead of furniture, which takes no time."""

    def make_box(name, split, seed, number):
        height = 1 + CLASSES.index(name) + SPLITS.index(split) / 10 + seed / 7 + number / 100
        vertices, faces = box((0, 0, 0), (1, 1, height))
        return Shape(vertices, faces, np.zeros(12, int), ("box",))

    monkeypatch.setattr(shapes10, "make_split_shape", make_box)


@pytest.fixture
def root(tmp_path, boxes):
    """A root with the files already there."""
    write_shapes10(tmp_path, **FEW)
    return tmp_path


def edge_balance(vertices, faces):
    """Count each directed edge minus its opposite; a closed surface has only zeros."""
    count = len(vertices)
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    edges, signs = np.minimum(start, end) * count + np.maximum(start, end), np.sign(end - start)
    return np.bincount(np.unique(edges, return_inverse=True)[1], weights=signs)


def volume(vertices, faces):
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return (a * np.cross(b, c)).sum() / 6


# solids


def test_a_box_has_the_volume_and_area_of_a_box():
    vertices, faces = box((1, 1, 1), (2, 3, 4))
    assert volume(vertices, faces) == pytest.approx(6)
    assert face_areas(vertices, faces).sum() == pytest.approx(22)


def test_a_fine_cylinder_has_nearly_the_volume_of_one():
    vertices, faces = stack(outline(2, 2, corners=100), [(0, 1), (3, 1)])
    assert volume(vertices, faces) == pytest.approx(3 * np.pi, rel=2e-3)


def test_a_tub_is_hollow():
    square = np.hstack([outline(1, 1), np.zeros((4, 1))])
    inner = square * [0.8, 0.8, 1]
    rings = [
        loop + np.array([0, 0, z])
        for loop, z in zip((square, square, inner, inner), (0, 1, 1, 0.1), strict=True)
    ]
    vertices, faces = loft(rings)
    assert volume(vertices, faces) == pytest.approx(1 - 0.64 * 0.9)
    assert not edge_balance(vertices, faces).any()


@pytest.mark.parametrize("longest", [2.0, 0.5, 0.13])
def test_subdividing_changes_edges_only(longest):
    vertices, faces = box((0, 0, 0), (1, 0.1, 2))
    fine, pieces, parents = subdivide(vertices, faces, longest)
    ends = fine[np.stack([pieces, np.roll(pieces, -1, axis=1)])]
    assert np.linalg.norm(ends[0] - ends[1], axis=-1).max() <= longest
    assert not edge_balance(fine, pieces).any()  # no cracks
    areas = np.bincount(parents, weights=face_areas(fine, pieces))
    np.testing.assert_allclose(areas, face_areas(vertices, faces))
    assert volume(fine, pieces) == pytest.approx(0.2)


def test_subdividing_a_mesh_that_is_fine_enough_returns_it():
    vertices, faces = box((0, 0, 0), (1, 1, 1))
    fine, pieces, parents = subdivide(vertices, faces, 9.0)
    assert fine is vertices
    assert pieces.tolist() == faces.tolist()
    assert parents.tolist() == list(range(12))


# furniture


@pytest.mark.parametrize("name", CLASSES)
def test_every_part_is_closed_and_faces_outward(name):
    for seed in range(8):
        for part, (vertices, faces) in MAKERS[name](np.random.default_rng(seed)):
            assert not edge_balance(vertices, faces).any(), part
            assert volume(vertices, faces) > 0, part


@pytest.mark.parametrize("name", CLASSES)
def test_every_face_knows_its_part(name):
    shape = draw(name)
    assert shape.part_of_face.shape == (len(shape.faces),)
    assert set(shape.part_of_face) == set(range(len(shape.part_names)))
    assert len(shape.part_names) >= 2


def test_a_part_label_is_where_the_part_is():
    shape = draw("table", seed=1)
    top = shape.faces[shape.part_of_face == shape.part_names.index("top")]
    height = shape.vertices[:, 2].max()
    assert shape.vertices[top, 2].min() > 0.85 * height
    legs = shape.faces[shape.part_of_face == shape.part_names.index("leg")]
    assert shape.vertices[legs, 2].min() == 0


@pytest.mark.parametrize("name", CLASSES)
def test_a_shape_stands_on_the_floor_around_the_origin(name):
    low, high = draw(name).vertices.min(axis=0), draw(name).vertices.max(axis=0)
    assert low[2] == pytest.approx(0)
    np.testing.assert_allclose((low + high)[:2], 0, atol=0.3)  # the box of a turned shape wanders


def test_no_class_has_proportions_of_its_own():
    heights = {name: [np.ptp(draw(name, s).vertices[:, 2]) for s in range(15)] for name in CLASSES}
    spread = [(min(values), max(values)) for values in heights.values()]
    middle = np.sqrt(EXTENT[0] * EXTENT[1])
    assert all(EXTENT[0] <= low < middle < high <= EXTENT[1] for low, high in spread)


def test_unseen_proportions_are_never_seen_in_training():
    for seed in range(100):
        seen = draw_extent(np.random.default_rng(seed))
        assert ((seen >= EXTENT[0]) & (seen <= EXTENT[1])).all()
        unseen = draw_extent(np.random.default_rng(seed), unseen=True)
        assert ((unseen < EXTENT[0]) | (unseen > EXTENT[1])).any()


def test_a_shape_fills_the_box_that_was_drawn():
    seat = draw("chair", seed=2)  # its seat reaches to the sides of the box
    corners = seat.vertices[seat.faces[seat.part_of_face == 0]].reshape(-1, 3)
    far = np.linalg.norm(corners[:, None, :2] - corners[None, :, :2], axis=-1).max()
    generator = np.random.default_rng(2)
    MAKERS["chair"](generator)
    generator.uniform()  # the length of the edges
    width, depth, height = draw_extent(generator)
    assert far == pytest.approx(np.hypot(width, depth))
    assert seat.vertices[:, 2].max() == pytest.approx(height)


def test_directions_are_random():
    turned = [draw("monitor", s).vertices for s in range(30)]
    wide = [np.ptp(v[:, 0]) / np.ptp(v[:, 1]) for v in turned]
    assert min(wide) < 0.9 < 1.1 < max(wide)


def test_a_class_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match=r"class must be one of bathtub, bed.*, got 'lamp'"):
        draw("lamp")


def test_the_classes_are_those_of_modelnet10():
    assert tuple(CLASSES) == tuple(MODELNET10_CLASSES)


# damage


def flat_square():
    vertices, faces, _ = subdivide(
        np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]),
        np.array([[0, 1, 2], [0, 2, 3]]),
        0.1,
    )
    return Shape(vertices, faces, np.zeros(len(faces), int), ("plate",))


def test_a_cut_leaves_the_wanted_share_of_the_surface():
    whole = flat_square()
    for seed in range(5):
        generator = np.random.default_rng(seed)
        cut = damage(whole, generator, cut=(0.7, 0.7), noise=None, stray=None)
        assert face_areas(cut.vertices, cut.faces).sum() == pytest.approx(0.7, abs=0.01)


def test_what_a_cut_leaves_is_on_one_side():
    whole = draw("sofa")
    cut = damage(whole, np.random.default_rng(0), cut=(0.6, 0.6), noise=None, stray=None)
    kept = cut.vertices[cut.faces].mean(axis=1)
    center = cut.vertices.mean(axis=0)
    assert np.linalg.norm(kept.mean(axis=0) - center) > 0.1


def test_noise_moves_vertices_by_the_wanted_deviation():
    whole = flat_square()
    noisy = damage(whole, np.random.default_rng(0), cut=None, noise=(0.01, 0.01), stray=None)
    fine = damage(whole, np.random.default_rng(0), cut=None, noise=None, stray=None)
    assert (noisy.vertices - fine.vertices).std() == pytest.approx(0.01 * np.sqrt(2), rel=0.1)


def test_specks_have_the_wanted_share_of_the_area():
    whole = draw("bed")
    specked = damage(whole, np.random.default_rng(0), cut=None, noise=None, stray=(0.03, 0.03))
    areas = face_areas(specked.vertices, specked.faces)
    stray = specked.part_of_face == specked.part_names.index("stray")
    assert areas[stray].sum() / areas[~stray].sum() == pytest.approx(0.03)


def test_damage_leaves_the_original_alone():
    whole = draw("chair")
    before = whole.vertices.copy(), whole.faces.copy()
    damage(whole, np.random.default_rng(0))
    np.testing.assert_array_equal(whole.vertices, before[0])
    np.testing.assert_array_equal(whole.faces, before[1])


# files


def test_the_layout_is_that_of_modelnet10(written):
    files = {str(path.relative_to(written)) for path in written.rglob("*.off")}
    wanted = {f"{c}/{s}/{c}_0001.off" for c in CLASSES for s in SPLITS}
    assert files == wanted | {f"{c}/train/{c}_0002.off" for c in CLASSES}


def test_the_name_modelnet_is_nowhere(written):
    assert "modelnet" not in "".join(str(p.name) for p in written.rglob("*")).lower()
    assert "modelnet" not in (written / "manifest.json").read_text().lower()


def test_another_process_makes_the_same_bytes():
    script = """
        import hashlib
        import numpy as np
        from datasets.damage import damage
        from datasets.furniture import MAKERS, make_shape
        from datasets.off import format_off

        total = hashlib.sha256()
        for name in MAKERS:
            generator = np.random.default_rng(5)
            shape = damage(make_shape(name, generator), generator)
            total.update(format_off(shape.vertices, shape.faces))
        print(total.hexdigest())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    digests = [
        subprocess.run(
            command,
            cwd=CHECKOUT,
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1] != b""


def test_more_shapes_leave_the_others_as_they_are(tmp_path, written):
    more = write_shapes10(tmp_path, num_train=3, num_test=1, num_hard=1)
    for path in written.rglob("*.off"):
        assert (more / path.relative_to(written)).read_bytes() == path.read_bytes()


def test_another_seed_gives_another_shape():
    a, b = (make_split_shape("sofa", "test", seed, 1).vertices for seed in (0, 1))
    assert a.shape != b.shape or not np.allclose(a, b)


def test_shapes_of_a_split_differ(written):
    texts = [path.read_bytes() for path in written.rglob("*.off")]
    assert len(set(texts)) == len(texts) == 40


def test_a_file_holds_the_shape_of_its_number(written):
    shape = make_split_shape("desk", "test-hard", seed=0, number=1)
    vertices, faces = read_shape(written / "desk/test-hard/desk_0001.off")
    np.testing.assert_allclose(vertices, shape.vertices, atol=1e-5)
    assert faces.tolist() == shape.faces.tolist()  # so part_of_face labels the file's faces


@pytest.mark.parametrize(
    ("options", "version", "message"),
    [({"seed": 3}, None, "seed"), ({"num_test": 2}, None, "counts"), ({}, 999, "generator")],
)
def test_other_arguments_or_another_generator_write_anew(
    root, options, version, message, monkeypatch
):
    monkeypatch.setattr(shapes10, "VERSION", version or shapes10.VERSION)
    with pytest.warns(CacheWarning, match=f"other {message};"):
        write_shapes10(root, **FEW | options)


@pytest.mark.parametrize("options", [{"seed": -1}, {"num_train": 0}, {"num_hard": -3}])
def test_arguments_that_make_no_sense_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="seed must be 0 or more and counts at least 1"):
        write_shapes10(tmp_path, **options)
    assert not list(tmp_path.iterdir())


# the data set


@pytest.mark.parametrize(("split", "count"), [("train", 20), ("test", 10), ("test-hard", 10)])
def test_each_split_has_its_shapes(root, split, count):
    data = Shapes10(root, split, num_points=16, **FEW)
    assert (len(data), len(data.classes)) == (count, 10)
    assert data[0].pos.shape == (16, 3)


def test_the_first_use_writes_the_files(tmp_path, boxes):
    few = {"num_train": 1, "num_test": 1, "num_hard": 1}
    assert len(Shapes10(tmp_path, "test", num_points=16, **few)) == 10
    manifest = json.loads((tmp_path / "shapes10/manifest.json").read_text())
    assert manifest["counts"] == {"train": 1, "test": 1, "test-hard": 1}


def test_training_points_are_redrawn_and_test_points_are_not(root):
    train, hard = (Shapes10(root, s, num_points=16, **FEW) for s in ("train", "test-hard"))
    assert not torch.equal(train[0, 3].pos, train[1, 3].pos)
    assert_close(hard[0, 3].pos, hard[1, 3].pos, atol=0, rtol=0)


def test_another_split_is_an_error(root):
    with pytest.raises(ValueError, match="split must be one of train, test, test-hard, got 'val'"):
        Shapes10(root, "val", **FEW)
