import pytest

from datasets.off import OFFError, parse_off

CORNERS = ["0 0 0", "1 0 0", "0 1 0"]


@pytest.mark.parametrize(
    ("header", "extra"),
    [
        ("off", ""),
        ("COFF", " 255 0 0 255"),
        ("CNOFF", " 0 0 1 255 0 0"),
        ("NCOFF", " 0 0 1 255 0 0 255"),
        ("STCNOFF", " 0 0 1 255 0 0 0.5 0.5"),
        ("CSTOFF", " 255 0 0 0.5 0.5"),
        ("NSTOFF", " 0 0 1 0.5 0.5"),
        ("NCSTOFF", " 0 0 1 255 0 0 255 0.5 0.5"),
    ],
)
def test_prefixes_are_read_in_any_order(header, extra):
    lines = [header, "3 1 0", *(corner + extra for corner in CORNERS), "3 0 1 2", ""]
    vertices, faces = parse_off("\n".join(lines).encode(), "mesh.off")
    assert vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert faces.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("header", ["4OFF", "nOFF", "N4OFF", "XOFF", "Off"])
def test_other_headers_are_refused(header):
    with pytest.raises(OFFError, match="not an OFF file"):
        parse_off(f"{header}\n3 1 0\n".encode(), "mesh.off")
