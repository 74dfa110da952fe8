"""Normals and colors of points: read from files, found on meshes, carried along by every draw."""

import io

import numpy as np
import pytest
import torch
import trimesh
from torch.testing import assert_close

from datasets.augment import AnyRotation, Augment
from datasets.clouds import parse_cloud, parse_features, spell_features
from datasets.draws import Draws
from datasets.mesh_folder import MeshFolder
from datasets.off import OFFError, format_off
from datasets.shape_files import parse_shape
from datasets.surface import prepare

POINTS = np.array([[0.0, 0, 0], [2, 0, 0], [0, 4, 0], [0, 0, 6]])
NORMALS = np.array([[0.0, 0, 1], [0, 1, 0], [0.6, 0, 0.8], [-1, 0, 0]])
COLORS = np.array([[255, 0, 0], [0, 255, 0], [51, 102, 0], [0, 0, 0]])
ALL = np.column_stack([POINTS, NORMALS, COLORS])
BOTH = ("normal", "color")
EXPECTED = np.column_stack([POINTS, NORMALS, COLORS / 255])


def text(table, head="") -> bytes:
    rows = (" ".join(f"{value:g}" for value in row) for row in table)
    return (head + "\n".join(rows) + "\n").encode()


def npy(table) -> bytes:
    content = io.BytesIO()
    np.save(content, table)
    return content.getvalue()


def ply(kind: str) -> bytes:
    names = ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue"]
    types = ["float"] * 6 + ["uchar"] * 3
    head = ["ply", f"format {kind} 1.0", "element vertex 4"]
    head += [f"property {type} {name}" for type, name in zip(types, names, strict=True)]
    head = "\n".join([*head, "end_header", ""])
    if kind == "ascii":
        return text(ALL, head)
    order = "<" if kind == "binary_little_endian" else ">"
    rows = np.empty(4, [("f", f"{order}f4", 6), ("u", "u1", 3)])
    rows["f"], rows["u"] = ALL[:, :6], COLORS
    return head.encode() + rows.tobytes()


def pcd(kind: str, type: str) -> bytes:
    packed = (COLORS << [16, 8, 0]).sum(1).astype("<u4")
    rgb = packed.view("<f4") if type == "F" else packed
    head = "VERSION .7\nFIELDS x y z normal_x normal_y normal_z rgb\nSIZE 4 4 4 4 4 4 4\n"
    head += f"TYPE F F F F F F {type}\nCOUNT 1 1 1 1 1 1 1\nPOINTS 4\nDATA {kind}\n"
    if kind == "ascii":
        values = [[f"{value!r}" for value in row] for row in ALL[:, :6].tolist()]
        rows = [" ".join([*row, f"{c!r}"]) for row, c in zip(values, rgb.tolist(), strict=True)]
        return (head + "\n".join(rows)).encode()
    table = np.empty(4, [("f", "<f4", 6), ("c", rgb.dtype)])
    table["f"], table["c"] = ALL[:, :6], rgb
    return head.encode() + table.tobytes()


FILES = {
    "plain.xyz": text(ALL),
    "named.txt": text(ALL[:, [6, 7, 8, 0, 1, 2, 3, 4, 5]], "r g b x y z nx ny nz\n"),
    "shares.xyz": text(EXPECTED),
    "a.npy": npy(EXPECTED.astype(np.float32)),
    **{f"{kind}.ply": ply(kind) for kind in ("ascii", "binary_little_endian", "binary_big_endian")},
    **{f"{k}-{t}.pcd": pcd(k, t) for k in ("ascii", "binary") for t in "FU"},
}


@pytest.mark.parametrize("name", FILES)
def test_normals_and_colors_are_read(name):
    rows, faces = parse_shape(FILES[name], name, features=BOTH)
    assert_close(rows, EXPECTED, atol=1e-6, rtol=0)
    assert len(faces) == 0
    assert_close(parse_shape(FILES[name], name)[0], POINTS)
    colored, _ = parse_shape(FILES[name], name, features=("color",))
    assert_close(colored, EXPECTED[:, [0, 1, 2, 6, 7, 8]], atol=1e-6, rtol=0)


def test_intensity_in_front_of_colors_is_none_of_them():
    table = np.column_stack([POINTS, [-7, 9, 9, 9], COLORS])
    assert_close(parse_cloud(b"4\n" + text(table), ".pts").color, COLORS / 255)


def test_words_after_the_coordinates_are_left_alone():
    assert_close(parse_cloud(b"0 0 1 chair\n1 0 0 bed\n", ".xyz").points[0], np.array([0.0, 0, 1]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", text(POINTS), "no normal and no color, but xyz; the features xyz,normal,color"),
        ("a.npy", npy(ALL[:, :6]), "no color, but xyz,normal"),
        ("a.pts", text(ALL[:, [0, 1, 2, 6, 7, 8]]), "no normal, but xyz,color"),
        ("a.ply", trimesh.PointCloud(POINTS).export(file_type="ply"), "no normal and no color"),
        ("a.stl", trimesh.creation.box().export(file_type="stl"), "no color is read of meshes"),
        ("a.off", format_off(np.eye(3), np.array([[0, 1, 2]])), "no color is read of meshes"),
    ],
)
def test_a_file_without_a_feature_is_refused_by_name(name, content, message):
    with pytest.raises(OFFError, match=rf"^{name}: .*{message}"):
        parse_shape(content, name, features=BOTH)


def test_normals_turn_with_the_axis_that_is_up():
    rows, _ = parse_shape(FILES["a.npy"], "a.npy", up="y", features=BOTH)
    assert_close(rows[1, 3:6], np.array([0.0, 0, 1]), atol=1e-6, rtol=0)  # it was y
    assert_close(rows[:, 6:], EXPECTED[:, 6:], atol=1e-6, rtol=0)


def test_names_of_features_are_checked():
    assert parse_features("color, xyz,normal") == BOTH
    assert spell_features(BOTH) == "xyz,normal,color"
    for wrong in ("normal", "xyz,norm", ""):
        with pytest.raises(ValueError, match="must be xyz, also with normal and color, got"):
            parse_features(wrong)


def test_points_of_a_mesh_have_the_normal_of_their_face():
    box = trimesh.creation.box((1, 2, 4))
    drawn = Draws(votes=2, sampling="farthest").draw(
        *prepare(np.asarray(box.vertices), np.asarray(box.faces)), 50, normals=True
    )
    half = np.array([0.25, 0.5, 1.0])
    for points in drawn:
        side = np.abs(np.abs(points[:, :3]) - half).argmin(axis=1)
        outside = np.eye(3)[side] * np.sign(points[:, :3])
        np.testing.assert_allclose(points[:, 3:], outside, atol=1e-6)


def test_normals_stay_at_right_angles_to_a_surface_that_is_turned_and_stretched():
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    plane = torch.from_numpy(generator.normal(size=(30, 2)) @ axes[:2])
    color = torch.rand(30, 3, dtype=plane.dtype)
    rows = torch.cat([plane, torch.from_numpy(axes[2]).expand(30, 3), color], dim=1)
    for augment in (Augment(180, (0.5, 2.0), 0.1), AnyRotation(Augment(scale=(0.5, 2.0)))):
        changed = augment(rows, generator, normals=True)
        edges, normals = changed[1:, :3] - changed[:1, :3], changed[1:, 3:6]
        assert_close((edges * normals).sum(1), torch.zeros(29, dtype=plane.dtype))
        assert_close(normals.norm(dim=1), torch.ones(29, dtype=plane.dtype))
        assert_close(changed[:, 6:], color)
        alone = augment(rows[:, :3], np.random.default_rng(5))
        assert_close(augment(rows, np.random.default_rng(5), normals=True)[:, :3], alone)


@pytest.fixture
def root(tmp_path):
    """A mesh and a cloud with normals in training, a cloud without any in the test."""
    for name, content in {
        "train/1.stl": trimesh.creation.box().export(file_type="stl"),
        "train/2.ply": ply("ascii"),
        "test/3.xyz": text(POINTS),
    }.items():
        path = tmp_path / "thing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def test_meshes_and_clouds_of_a_folder_share_their_features(root):
    data = MeshFolder(root, num_points=4, features=("normal",))
    mesh, cloud = data[0, 0], data[0, 1]
    assert mesh.x.shape == cloud.x.shape == (4, 3)
    assert_close(mesh.x.norm(dim=1), torch.ones(4))
    order = [np.abs(NORMALS - row).sum(1).argmin() for row in cloud.x.numpy()]
    assert sorted(order) == [0, 1, 2, 3]
    assert MeshFolder(root, num_points=4)[0].x is None  # from a cache of its own
    fixed = MeshFolder(root, num_points=4, features=("normal",), draws=Draws(votes=3))
    assert fixed[1].x.shape == (12, 3)
    with pytest.raises(OFFError, match=r"3\.xyz: .*holds no normal"):
        MeshFolder(root, "test", features=("normal",))


def test_augmentation_is_told_of_normals(root):
    def flip(rows, generator, normals):
        assert normals
        return -rows

    features = {"num_points": 4, "features": ("normal",)}
    plain, changed = (MeshFolder(root, **features, augment=a)[1] for a in (None, flip))
    assert_close(changed.x, -plain.x)
    assert_close(changed.pos, -plain.pos)
