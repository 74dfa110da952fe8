import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datasets.furniture import make_shape
from datasets.off import MAX_BYTES, OFFError, OFFWarning, format_off, parse_off
from datasets.shape_files import read_shape
from datasets.surface import sample_faces

TETRAHEDRON = b"OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n"
VERTICES = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
FACES = [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
SQUARE = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"


@pytest.fixture
def write(tmp_path):
    """Write bytes or text to a file and return its path."""

    def write_file(content, name="mesh.off"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def assert_tetrahedron(mesh):
    vertices, faces = mesh
    assert vertices.dtype == np.float64
    assert faces.dtype == np.int64
    assert vertices.tolist() == VERTICES
    assert faces.tolist() == FACES


# what is found in the wild


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TETRAHEDRON, id="plain"),
        pytest.param(TETRAHEDRON.replace(b"OFF\n", b"OFF"), id="glued-header"),
        pytest.param(TETRAHEDRON.replace(b"OFF\n", b"OFF "), id="header-and-counts-on-one-line"),
        pytest.param(TETRAHEDRON.replace(b"4 4 6", b"4 4"), id="no-edge-count"),
        pytest.param(TETRAHEDRON.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(TETRAHEDRON.replace(b"\n", b"\r"), id="CR"),
        pytest.param(TETRAHEDRON.rstrip(), id="no-final-newline"),
        pytest.param(TETRAHEDRON.replace(b"\n", b"\n\n \t\n"), id="blank-lines"),
        pytest.param(TETRAHEDRON.replace(b"\n", b" # caf\xe9\n"), id="comments-after"),
        pytest.param(b"# first\n" + TETRAHEDRON.replace(b"\n", b"\n#1 2\n"), id="comment-lines"),
        pytest.param(TETRAHEDRON.replace(b"1 0 0", b"\t 1.0e0  0. -0\t"), id="odd-numbers"),
        pytest.param(b"\xef\xbb\xbf" + TETRAHEDRON, id="UTF-8-mark"),
        pytest.param(TETRAHEDRON.replace(b"3 1 2 3", b"3 1 2 3 255 0 0"), id="face-RGB"),
        pytest.param(TETRAHEDRON.replace(b"3 1 2 3", b"3 1 2 3 .1 .2 .3 1"), id="face-fractions"),
        pytest.param(TETRAHEDRON.replace(b"3 1 2 3", b"3 1 2 3 7"), id="face-color-index"),
        pytest.param(b"C" + TETRAHEDRON.replace(b"0 0 1\n", b"0 0 1 9 9 9 9\n"), id="COFF"),
        pytest.param(TETRAHEDRON.replace(b"0 0 1\n", b"0 0 1 .5 .5 .5\n"), id="OFF-with-colors"),
    ],
)
def test_dialects_are_read_alike(write, content):
    assert_tetrahedron(read_shape(write(content)))


@pytest.mark.fault(15)
def test_polygons_become_fans_in_the_order_of_the_file(write):
    path = write("OFF\n4 3 0\n" + SQUARE + "3 1 2 3\n4 0 1 2 3\n3 3 2 0\n")
    assert read_shape(path)[1].tolist() == [[1, 2, 3], [0, 1, 2], [0, 2, 3], [3, 2, 0]]


@pytest.mark.fault(44)
@pytest.mark.parametrize("name", ["a b.off", "Möbel-家具.off", "x" * 200 + ".off", "a\\b.off"])
def test_any_file_name_works(write, name):
    assert_tetrahedron(read_shape(write(TETRAHEDRON, name)))


@pytest.mark.fault(44)
def test_a_file_name_that_is_not_utf8_works(tmp_path):
    path = tmp_path / "caf\udce9.off"  # how Python spells the byte E9
    path.write_bytes(TETRAHEDRON[:-4])
    with pytest.raises(OFFError, match=r"caf\\xe9\.off") as error:
        read_shape(path)
    str(error.value).encode("utf-8")


# what is refused


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an OFF file: it is empty"),
        (b" \n\r\n", "not an OFF file: it is empty"),
        (b"<!DOCTYPE html>\n<html>404</html>", "not an OFF file: it starts with b'<!DOCTYPE"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an OFF file: it starts with"),
        (bytes(100), "not an OFF file"),
        (b"OFF BINARY\n" + bytes(100), "not an OFF file that can be read: it has binary data"),
        (TETRAHEDRON + b"\0", "binary data"),
        (TETRAHEDRON.decode().encode("utf-16"), "not an OFF file: it is UTF-16"),
        (TETRAHEDRON.decode().encode("utf-16-le"), "not an OFF file"),
        (b"ply\nformat ascii 1.0\n", "not an OFF file"),
        (b"4OFF\n1 1 0\n0 0 0 0\n", "four or n dimensions"),
        *((header + b"OFF\n3 1 0\n", "not an OFF file") for header in (b"n", b"N4", b"X")),
        (b"Off\n3 1 0\n", "not an OFF file"),
        (b"OFF", "counts of vertices and faces are missing"),
        (b"OFF\nfour 4 6\n", "counts of vertices and faces are missing"),
        (b"OFF\n-4 4 6\n", "counts of vertices and faces are missing"),
        (b"OFF\n4.0 4 6\n", "counts of vertices and faces are missing"),
        (b"OFF\n0 0 0\n", "no vertices"),
    ],
)
def test_what_is_not_off_is_refused(write, content, message):
    with pytest.raises(OFFError, match=rf"mesh\.off.*{message}"):
        read_shape(write(content))


@pytest.mark.fault(16)
@pytest.mark.parametrize("kept", [1, 3, 4, 7])
def test_a_file_cut_after_a_line_is_refused(write, kept):
    content = b"".join(TETRAHEDRON.splitlines(keepends=True)[: 2 + kept])
    with pytest.raises(OFFError, match=r"mesh\.off: truncated"):
        read_shape(write(content))


@pytest.mark.fault(16)
def test_a_vertex_cut_short_is_refused(write):
    with pytest.raises(OFFError, match="line 4: a vertex cannot have 2 numbers"):
        read_shape(write(TETRAHEDRON.replace(b"1 0 0\n", b"1 0\n")))


@pytest.mark.fault(16)
def test_a_face_cut_short_is_refused(write):
    with pytest.raises(OFFError, match="line 10: a face of 3 corners cannot have 2 further"):
        read_shape(write(TETRAHEDRON[:-3]))


@pytest.mark.fault(17)
@pytest.mark.parametrize("index", ["-1", "4", "99999999999999999999", "1.5"])
def test_an_index_that_names_no_vertex_is_refused(write, index):
    content = TETRAHEDRON.replace(b"3 0 3 2", f"3 0 {index} 2".encode())
    with pytest.raises(OFFError, match=r"line 9: a face names vertex .*, there are 4"):
        read_shape(write(content))


@pytest.mark.fault(18)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "NaN"])
def test_a_vertex_that_is_not_finite_is_refused(write, value):
    with pytest.raises(OFFError, match="line 4: a vertex is"):
        read_shape(write(TETRAHEDRON.replace(b"1 0 0", f"{value} 0 0".encode())))


@pytest.mark.parametrize("word", ["x", "1,5", "0x10", "1_000", "1.2.3", "1d5"])
def test_a_word_among_the_numbers_is_refused(write, word):
    with pytest.raises(OFFError, match=f"line 5: '{word}' is not a number"):
        read_shape(write(TETRAHEDRON.replace(b"0 1 0", f"0 {word} 0".encode())))


@pytest.mark.fault(20)
@pytest.mark.parametrize("counts", ["999999999 4 0", "4 999999999 0", "400000000000000000 1 0"])
def test_absurd_counts_are_refused_before_anything_is_allocated(write, counts):
    content = TETRAHEDRON.replace(b"4 4 6", counts.encode())
    with pytest.raises(OFFError, match=r"more than its .* bytes can hold"):
        read_shape(write(content))


@pytest.mark.fault(20)
def test_an_absurd_polygon_is_refused(write):
    with pytest.raises(OFFError, match="line 10: a face of 1e\\+09 corners"):
        read_shape(write(TETRAHEDRON.replace(b"3 1 2 3", b"1000000000 1 2 3")))


@pytest.mark.fault(20)
def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.off"
    with open(path, "wb") as file:
        file.write(TETRAHEDRON)
        file.truncate(8 * MAX_BYTES)  # sparse: takes no room on disk
    with pytest.raises(OFFError, match="more than the"):
        read_shape(path)


@pytest.mark.parametrize("corners", ["2 0 1", "1 0", "0", "-3 0 1 2", "3.5 0 1 2"])
def test_a_face_of_fewer_than_three_corners_is_refused(write, corners):
    with pytest.raises(OFFError, match="line 10"):
        read_shape(write(TETRAHEDRON.replace(b"3 1 2 3", corners.encode())))


def test_lines_after_the_last_face_are_refused(write):
    with pytest.raises(OFFError, match="line 11: 1 lines after the last face"):
        read_shape(write(TETRAHEDRON + b"3 0 1 2\n"))


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", id="no-faces"),
        pytest.param("OFF\n3 1 0\n0 0 0\n1 1 1\n2 2 2\n3 0 1 2\n", id="on-a-line"),
        pytest.param("OFF\n3 1 0\n5 5 5\n5 5 5\n5 5 5\n3 0 1 2\n", id="one-point"),
        pytest.param("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 1 1 2\n", id="corner-twice"),
    ],
)
def test_a_mesh_without_area_is_refused_or_sampled_at_its_vertices(write, mesh):
    path = write(mesh)
    with pytest.raises(OFFError, match=r"no faces|no area"):
        read_shape(path)
    with pytest.warns(OFFWarning, match=r"no faces|no area"):
        vertices, faces = read_shape(path, lenient=True)
    points = sample_faces(vertices, faces, 50, np.random.default_rng(0))[0]
    assert {tuple(p) for p in points} <= {tuple(v) for v in vertices.astype(np.float32)}


@pytest.mark.fault(18)
def test_lenient_drops_vertices_that_are_not_finite_with_their_faces(write):
    path = write(TETRAHEDRON.replace(b"1 0 0", b"nan 0 0"))
    with pytest.warns(OFFWarning, match="1 vertices, in 3 triangles"):
        vertices, faces = read_shape(path, lenient=True)
    assert vertices.tolist() == [VERTICES[0], *VERTICES[2:]]
    assert faces.tolist() == [[0, 2, 1]]


def test_lenient_drops_faces_of_two_corners(write):
    path = write(TETRAHEDRON.replace(b"3 0 3 2", b"2 0 3"))
    with pytest.warns(OFFWarning, match="needs 3 corners"):
        faces = read_shape(path, lenient=True)[1]
    assert faces.tolist() == [FACES[0], FACES[1], FACES[3]]


@pytest.mark.fault(18)
def test_lenient_stops_where_nothing_is_left(write):
    with (
        pytest.warns(OFFWarning, match="a vertex is"),
        pytest.raises(OFFError, match="not one vertex is finite"),
    ):
        read_shape(write("OFF\n1 1 0\nnan 0 0\n3 0 0 0\n"), lenient=True)


# writing


coordinates = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


@settings(max_examples=50, deadline=None, database=None)
@given(data=st.data(), count=st.integers(3, 12))
def test_what_is_written_is_read_back_bit_for_bit(data, count):
    vertices = data.draw(arrays(np.float64, (count, 3), elements=coordinates))
    vertices[:3] = np.eye(3) * max(1.0, np.abs(vertices).max())  # a face with area
    more = data.draw(arrays(np.int64, (5, 3), elements=st.integers(0, count - 1)))
    faces = np.concatenate([[[0, 1, 2]], more])
    read_vertices, read_faces = parse_off(format_off(vertices, faces), "x.off")
    assert read_vertices.tobytes() == vertices.tobytes()
    assert read_faces.tolist() == faces.tolist()


BOX = b"OFF\n8 6 12\n" + b"".join(
    b"%d.25 %d.5 %d.125\n" % (x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)
)
BOX += b"4 0 1 3 2\n4 4 6 7 5\n4 0 4 5 1\n4 2 3 7 6\n4 0 2 6 4\n4 1 5 7 3\n"


def furniture(name):
    shape = make_shape(name, np.random.default_rng(5))
    return format_off(np.round(shape.vertices, 5) + 0.0, shape.faces)


FILES = {"box": BOX, **{name: furniture(name) for name in ("table", "chair", "toilet")}}


@pytest.mark.fault(16)
@pytest.mark.parametrize("name", FILES)
def test_no_cut_is_accepted(name):
    content = FILES[name]
    last = content.rstrip().rindex(b" ")
    for cut in range(1, last + 1, 1 + last // 500):
        with pytest.raises(OFFError):
            parse_off(content[:cut], "cut.off")


@pytest.mark.fault(16, 17, 21)
@settings(max_examples=400, deadline=5000, database=None)
@given(name=st.sampled_from(sorted(FILES)), data=st.data())
def test_a_mutated_file_is_refused_or_whole(name, data):
    content = FILES[name]
    texts = st.text("0123456789.-e \n#\0x", max_size=8).map(str.encode)
    for _ in range(data.draw(st.integers(1, 5))):
        begin = data.draw(st.integers(0, len(content)))
        end = min(len(content), begin + data.draw(st.integers(0, 30) | st.integers(0, 200)))
        kind = data.draw(st.sampled_from(["replace", "repeat", "drop", "move"]))
        part = content[begin:end]
        if kind == "replace":
            part = data.draw(texts | st.binary(max_size=8))
        elif kind == "repeat":
            part = part * data.draw(st.integers(2, 50))
        elif kind == "drop":
            part = b""
        content = content[:begin] + part + content[end:]
        if kind == "move":
            place = data.draw(st.integers(0, len(content)))
            content = content[:place] + part + content[place:]
    try:
        vertices, faces = parse_off(content, "mutated.off")
    except OFFError:
        return
    assert_whole(vertices, faces, content.replace(b"\r", b"\n"))


def assert_whole(vertices, faces, content):
    """Check a mesh against the counts in its file, read in another way."""
    claimed = re.sub(rb"#[^\n]*", b"", content).replace(b"OFF", b"").split()
    assert len(vertices) == int(claimed[0])
    assert len(faces) >= int(claimed[1])  # every polygon gives a triangle at least
    assert np.isfinite(vertices).all()
    assert 0 <= faces.min() <= faces.max() < len(vertices)


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (np.zeros((3, 2)), np.zeros((1, 3), int), r"vertices must have the shape \(N, 3\)"),
        (np.zeros((3, 3)), np.zeros((1, 4), int), r"faces must have the shape \(N, 3\)"),
        (np.full((3, 3), np.nan), np.zeros((1, 3), int), "vertices must be finite"),
        (np.zeros((3, 3)), np.array([[0, 1, -1]]), "faces must name vertices 0 to 2"),
    ],
)
def test_what_could_not_be_read_is_not_written(vertices, faces, message):
    with pytest.raises(ValueError, match=message):
        format_off(vertices, faces)
