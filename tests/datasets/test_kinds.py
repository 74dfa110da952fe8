"""Every kind of file of a mesh, written by hand: read right, or refused by name."""

import base64
import json
import struct

import numpy as np
import pytest
import trimesh
from torch.testing import assert_close

from datasets.off import OFFError
from datasets.ply import parse_ply
from datasets.shape_files import read_shape
from datasets.surface import cumulative_areas, face_normals

# a notched square, whose fourth corner is concave, and a triangle above it
CORNERS = [(0, 0, 0), (2, 0, 0), (2, 2, 0), (1.5, 0.5, 0), (0, 0, 5), (3, 0, 5), (0, 4, 5)]
POLYGONS = [(0, 1, 2, 3), (4, 5, 6)]
AREA = 1.0 + 6.0


def lines(*groups) -> bytes:
    rows = [" ".join(map(str, row)) for group in groups for row in group]
    return ("\n".join(rows) + "\n").encode()


def off(prefix: str, extra: tuple = ()) -> bytes:
    corners = [(*corner, *extra) for corner in CORNERS]
    faces = [(len(face), *face) for face in POLYGONS]
    return lines([(f"{prefix}OFF",), (len(corners), len(faces), 0)], corners, faces)


def ply(form: str, count: str = "uchar", extra: bool = False) -> bytes:
    """Write polygons of two sizes; ``extra`` puts further properties and an element around."""
    order = ">" if form.endswith("big_endian") else "<"
    code = {"uchar": "B", "int": "i"}[count]
    head = ["ply", f"format {form} 1.0", "comment made by hand", f"element vertex {len(CORNERS)}"]
    head += [f"property float {axis}" for axis in "xyz"]
    head += ["property uchar red", "property list uchar short more"] * extra
    head += [f"element face {len(POLYGONS)}"] + ["property float quality"] * extra
    head += [f"property list {count} int vertex_index"]
    head += ["element edge 1", "property int vertex1", "property int vertex2"] * extra
    rows, text = b"", []
    for number, corner in enumerate(CORNERS):
        more = (number, number % 3, *range(number % 3)) if extra else ()
        text.append((*corner, *more))
        rows += struct.pack(f"{order}3f", *corner)
        rows += struct.pack(f"{order}BB{number % 3}h", *more) if extra else b""
    for face in POLYGONS:
        quality = (0.5,) * extra
        text.append((*quality, len(face), *face))
        rows += struct.pack(f"{order}{extra:d}f", *quality)
        rows += struct.pack(f"{order}{code}{len(face)}i", len(face), *face)
    rows += struct.pack(f"{order}2i", 0, 1) * extra
    body = lines(text, [(0, 1)] * extra) if form == "ascii" else rows
    return "\n".join([*head, "end_header", ""]).encode() + body


def stl(name: str = "solid by hand") -> bytes:
    text = [(name,)]
    for face in [(0, 1, 3), (1, 2, 3), (4, 5, 6)]:
        text += [("facet normal 0 0 0",), ("outer loop",)]
        text += [("vertex", *CORNERS[corner]) for corner in face]
        text += [("endloop",), ("endfacet",)]
    return lines(text, [("endsolid",)])


def binary_stl(title: bytes) -> bytes:
    faces = [[CORNERS[corner] for corner in face] for face in [(0, 1, 3), (1, 2, 3), (4, 5, 6)]]
    rows = [struct.pack("<12fH", 0, 0, 0, *np.ravel(face), 0) for face in faces]
    return title.ljust(80, b"\0") + struct.pack("<I", len(rows)) + b"".join(rows)


def obj(faces: list[str], head: str = "", vertex: str = "") -> bytes:
    corners = [f"v {x} {y} {z}{vertex}" for x, y, z in CORNERS]
    return "\n".join([head, *corners, *(f"f {face}" for face in faces), ""]).encode()


FILES = {
    **{
        f"{prefix}OFF.off": off(prefix, extra)
        for prefix, extra in {
            "": (),
            "C": (255, 0, 0, 255),
            "N": (0, 0, 1),
            "ST": (0.5, 0.5),
            "CN": (0, 0, 1, 1, 0, 0),
            "NC": (0, 0, 1, 255, 0, 0, 255),
            "STN": (0, 0, 1, 0.5, 0.5),
            "STCN": (0, 0, 1, 255, 0, 0, 0.5, 0.5),
            "CST": (255, 0, 0, 0.5, 0.5),
            "NST": (0, 0, 1, 0.5, 0.5),
            "NCST": (0, 0, 1, 255, 0, 0, 255, 0.5, 0.5),
        }.items()
    },
    "lower.off": off("").replace(b"OFF", b"off"),
    **{
        f"{form}-{count}-{extra}.ply": ply(form, count, extra)
        for form in ("ascii", "binary_little_endian", "binary_big_endian")
        for count in ("uchar", "int")
        for extra in (False, True)
    },
    "windows.ply": ply("ascii").replace(b"\n", b"\r\n"),
    "text.stl": stl(),
    "names.stl": stl("solid  with a long name, by hand"),
    "binary.stl": binary_stl(b"made by hand"),
    "solid-binary.stl": binary_stl(b"solid although binary"),
    "plain.obj": obj(["1 2 3 4", "5 6 7"]),
    "negative.obj": obj(["-7 -6 -5 -4", "-3 -2 -1"]),
    "slashes.obj": obj(
        ["1/1/1 2/1/1 3/1/1 4/1/1", "5//1 6//1 7//1"],
        "mtllib none.mtl\no thing\ng part\nvt 0 0\nvn 0 0 1\nusemtl none\ns off",
    ),
    "colors.obj": obj(["1 2 3 4", "5 6 7"], vertex=" 1 0 0.5"),
    "continued.obj": obj(["1 2 \\\n3 4 # a comment", "5 6 7"], "# by hand"),
    "windows.obj": obj(["1 2 3 4", "5 6 7"]).replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("name", FILES)
def test_polygons_have_their_area_and_side_in_every_kind_of_file(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    vertices, faces = read_shape(path)
    assert_close(cumulative_areas(vertices, faces)[-1], np.float64(AREA))
    assert_close(face_normals(vertices, faces), np.tile([0.0, 0, 1], (3, 1)))
    used = vertices[np.unique(faces)]
    assert_close(used.min(axis=0), np.array([0.0, 0, 0]))
    assert_close(used.max(axis=0), np.array([3.0, 4, 5]))


def gltf(buffer: dict) -> dict:
    """Describe one triangle, with y up, which its node moves by 3 to the right."""
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "translation": [3, 0, 0]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1}, "indices": 0}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5125, "count": 3, "type": "SCALAR"},
            {"bufferView": 1, "componentType": 5126, "count": 3, "type": "VEC3"}
            | {"min": [0, 0, 0], "max": [1, 2, 4]},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 12},
            {"buffer": 0, "byteOffset": 12, "byteLength": 36},
        ],
        "buffers": [{"byteLength": 48, **buffer}],
    }


def write_gltf(folder, kind):
    data = struct.pack("<3I9f", 0, 1, 2, 0, 0, 0, 1, 2, 0, 0, 0, 4)
    path = folder / f"a.{'glb' if kind == 'binary' else 'gltf'}"
    if kind == "binary":
        head = json.dumps(gltf({})).encode()
        head += b" " * (-len(head) % 4)
        chunks = struct.pack("<I4s", len(head), b"JSON") + head
        chunks += struct.pack("<I4s", len(data), b"BIN\0") + data
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    elif kind == "inside":
        uri = f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
        path.write_text(json.dumps(gltf({"uri": uri})))
    else:
        (folder / "a.bin").write_bytes(data)
        path.write_text(json.dumps(gltf({"uri": "a.bin"})))
    return path


@pytest.mark.parametrize("kind", ["binary", "inside", "beside"])
def test_gltf_is_turned_to_have_z_up(kind, tmp_path):
    vertices, faces = read_shape(write_gltf(tmp_path, kind), up="x")  # it says y itself
    corners = vertices[faces[0]]
    assert_close(corners, np.array([[3.0, 0, 0], [4, 0, 2], [3, -4, 0]]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", b"plx\n", "it is no PLY file"),
        ("a.ply", ply("ascii").replace(b"ascii", b"text"), "has the line 'format text 1.0'"),
        ("a.ply", ply("ascii").replace(b"float z", b"half z"), "the line 'property half z'"),
        ("a.ply", ply("ascii")[:-6], "cut short: it promises 2 x face"),
        ("a.ply", ply("binary_big_endian")[:-1], "cut short: it promises 2 x face"),
        ("a.ply", ply("binary_little_endian").replace(b"vertex 7", b"vertex 9999999"), "cut short"),
        ("a.ply", ply("ascii").replace(b"3 4 5 6", b"3 4 5 7"), "names a vertex that is not there"),
        ("a.obj", obj(["1 2 9"]), "a face names a vertex that is not there, of 7"),
        ("a.obj", obj(["1 2 x"]), "a face is b'f 1 2 x'"),
        ("a.obj", b"v 0 0\n", "a vertex has fewer than three numbers"),
        ("a.obj", b"v 0 0 up\n", "could not convert"),
        ("a.stl", binary_stl(b"")[:-9], "it holds no vertices"),
        ("a.glb", b"glTF", "cannot be read as GLB"),
        ("a.gltf", b"{", "cannot be read as GLTF"),
    ],
)
def test_damaged_files_are_refused_by_name(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OFFError, match=rf"{name}: .*{message}"):
        read_shape(tmp_path / name)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_all_elements_of_a_ply_are_read(form):
    elements = parse_ply(ply(form, extra=True))
    assert elements["vertex"]["red"].tolist() == list(range(7))
    assert elements["vertex"]["more"].lengths.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert elements["vertex"]["more"].values.tolist() == [0, 0, 1] * 2
    assert elements["face"]["quality"].tolist() == [0.5, 0.5]
    assert [elements["edge"][f"vertex{n}"].tolist() for n in (1, 2)] == [[0], [1]]


def test_big_meshes_in_ply_are_those_that_trimesh_wrote(tmp_path):
    ball = trimesh.creation.icosphere(4)
    for encoding in ("ascii", "binary"):
        (tmp_path / "a.ply").write_bytes(ball.export(file_type="ply", encoding=encoding))
        vertices, faces = read_shape(tmp_path / "a.ply")
        assert_close(vertices, np.asarray(ball.vertices), atol=1e-6, rtol=0)
        assert_close(faces, np.asarray(ball.faces, np.int64))
