"""Meshes and point clouds of many formats, and which axis of theirs is up."""

import io
import struct
import sys
import types

import numpy as np
import pytest
import trimesh
from test_clouds import npy
from torch.testing import assert_close

from datasets.off import OFFError, OFFWarning
from datasets.pcd import parse_pcd
from datasets.shape_files import AXES, PACKAGES, SUFFIXES, parse_shape, read_shape, turn

POINTS = np.array([[0.0, 0, 0], [2, 0, 0], [0, 4, 0], [0, 0, 6], [1, 1, 1]])


def pcd(data: str, body: bytes, points: int = 5, fields: str = "intensity x y z") -> bytes:
    kinds = len(fields.split())
    head = f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE{' 4' * kinds}\nTYPE{' F' * kinds}\n"
    head += f"COUNT{' 1' * kinds}\nWIDTH {points}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
    return f"{head}POINTS {points}\nDATA {data}\n".encode() + body


def table() -> np.ndarray:
    return np.column_stack([np.full(5, 9.0), POINTS]).astype("<f4")


def literal(data: bytes) -> bytes:
    """LZF without any copies."""
    pieces = [data[i : i + 32] for i in range(0, len(data), 32)]
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


def compressed(values: np.ndarray) -> bytes:
    columns = values.T.tobytes()
    packed = literal(columns)
    return struct.pack("<II", len(packed), len(columns)) + packed


PCD = {
    "ascii": "\n".join(" ".join(map(str, row)) for row in table().tolist()).encode(),
    "binary": table().tobytes(),
    "binary_compressed": compressed(table()),
}


CLOUDS = {
    "b.NPY": npy(POINTS.astype(np.float32)),
    "a.xyz": b"# made by hand\n0 0 0 255\n2 0 0 1\n0 4 0 1\n\n0 0 6 1\n1 1 1 1\n",
    "b.xyz": b"x,y,z\r\n0,0,0\r\n2,0,0\r\n0,4,0\r\n0,0,6\r\n1,1,1",
    "a.pts": b"5\n0 0 0\n2 0 0\n0 4 0\n0 0 6\n1 1 1\n",
    **{f"{kind}.pcd": pcd(kind, body) for kind, body in PCD.items()},
}


@pytest.mark.parametrize("name", CLOUDS)
def test_points_of_a_cloud_are_those_of_the_file(name):
    vertices, faces = parse_shape(CLOUDS[name], name)
    assert_close(vertices, POINTS)
    assert faces.shape == (0, 3)


def test_copies_in_compressed_data_reach_into_themselves():
    zeros = np.zeros((5, 4), "<f4")
    packed = bytes([0, 0]) + bytes([0xE0, 70, 0])  # one literal byte, then 79 times the one before
    body = struct.pack("<II", len(packed), zeros.nbytes) + packed
    fields = parse_pcd(pcd("binary_compressed", body))
    assert fields.keys() == {"intensity", "x", "y", "z"}
    assert not any(values.any() for values in fields.values())


@pytest.mark.parametrize("kind", PCD)
def test_cut_clouds_are_refused(kind):
    whole = pcd(kind, PCD[kind])
    with pytest.raises(OFFError, match=r"a\.pcd: cannot be read as PCD: .*(cut short|numbers)"):
        parse_shape(whole[:-9], "a.pcd")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", b"", "it holds no vertices"),
        ("a.xyz", b"0 0 0\n1 2\n", "a line has fewer than three numbers"),
        ("a.xyz", b"0 0 0\n1 2 up\n", "could not convert"),
        ("a.npy", npy(np.zeros(4)), r"the shape \(N, 3 or more\), got \(4,\)"),
        ("a.npy", npy(np.array([["a", "b", "c"]])), "expected numbers"),
        ("a.pcd", b"VERSION .7\n", "no line DATA"),
        ("a.pcd", pcd("ascii", b"", fields="x y"), "no points with x, y and z, but x, y"),
        ("a.pcd", pcd("binary", b"1234", points=10**12), "cut short"),
        ("a.pcd", pcd("packed", b"1234"), "kind 'packed'"),
        ("a.stl", b"solid no more", "it holds no vertices"),
        ("a.doc", b"", r"no format that is read; those are \.off \.ply"),
    ],
)
def test_files_that_hold_nothing_to_draw_from_are_refused_by_name(name, content, message):
    with pytest.raises(OFFError, match=rf"^{name}: .*{message}"):
        parse_shape(content, name)


def test_pickled_arrays_are_refused_and_not_run():
    content = io.BytesIO()
    np.save(content, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(OFFError, match=r"a\.npy: cannot be read as NPY: .*pickle"):
        parse_shape(content.getvalue(), "a.npy")


@pytest.mark.parametrize("suffix", PACKAGES)
def test_formats_that_need_another_package_name_it(suffix, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OFFError, match=rf"{suffix} needs another package: pip install \w+"):
        parse_shape(b"", f"a{suffix}")


class FakeLAS:
    """What is used of laspy's files, with a red of 16 bits."""

    point_format = types.SimpleNamespace(dimension_names=("X", "red", "green", "blue"))

    def __init__(self, xyz):
        self.xyz = xyz

    def __getitem__(self, name):
        share = self.xyz[:, 0] / 6 if name == "red" else np.zeros(len(self.xyz))
        return np.round(share * 65535).astype(np.uint16)


def test_las_is_read_by_laspy(monkeypatch):
    fake = types.ModuleType("laspy")
    fake.read = lambda file: FakeLAS(np.frombuffer(file.read()).reshape(-1, 3).copy())
    fake.__spec__ = types.SimpleNamespace(name="laspy")
    monkeypatch.setitem(sys.modules, "laspy", fake)
    vertices, _ = parse_shape(POINTS.tobytes(), "a.las", features=("color",))
    assert_close(vertices, np.column_stack([POINTS, POINTS / 6 * [1, 0, 0]]), atol=1e-5, rtol=0)


def test_parts_of_a_scene_are_where_the_scene_puts_them(tmp_path):
    scene = trimesh.Scene()
    for height in (0, 10):
        place = trimesh.transformations.translation_matrix([0, height, 0])
        scene.add_geometry(trimesh.creation.box((1, 1, 1)), transform=place)
    scene.export(tmp_path / "two.glb")
    vertices, faces = read_shape(tmp_path / "two.glb")
    assert len(faces) == 24
    assert_close(np.ptp(vertices, axis=0), np.array([1.0, 1, 11]))


@pytest.mark.parametrize("up", AXES)
def test_the_axis_that_is_up_becomes_z_by_a_rotation(up):
    axis, sign = "xyz".index(up[-1]), -1 if up[0] == "-" else 1
    moved = turn(np.eye(3), up)
    assert_close(moved[axis] * sign, np.array([0.0, 0, 1]))
    assert_close(np.linalg.det(moved), np.float64(1))


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="up must be one of z, -z, y, -y, x, -x, got 'w'"):
        turn(POINTS, "w")


@pytest.mark.parametrize(
    ("name", "content", "message", "left"),
    [
        ("a.xyz", b"0 0 0\nnan 0 0\n1 1 1\n", "1 vertices are not finite", 2),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "it holds no faces", 3),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no area", 3),
    ],
)
def test_leniently_what_remains_is_used_with_a_warning(name, content, message, left):
    with pytest.raises(OFFError, match=message):
        parse_shape(content, name)
    with pytest.warns(OFFWarning, match=message):
        assert len(parse_shape(content, name, lenient=True)[0]) == left


def test_every_suffix_is_lower_case_and_named_once():
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert all(suffix == suffix.lower() for suffix in SUFFIXES)
