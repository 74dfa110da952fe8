import hashlib
import http.server
import os
import threading

import numpy as np
import pytest
from meshes import flip, load, zipped
from torch.testing import assert_close

from datasets import modelnet10
from datasets.download import DownloadError, download
from datasets.modelnet10 import fetch

CONTENT = np.random.default_rng(0).bytes(200_000)
EXPECTED = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, honestly or not: the path says how."""

    requests: list[str]

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.requests.append(f"{self.path} {start}")
        if self.path == "/missing":
            self.send_error(404)
            return
        bodies = {"/page": b"<html>404</html>", "/wrong": CONTENT[::-1], "/long": CONTENT * 2}
        body = bodies.get(self.path, CONTENT)
        whole = self.path == "/stubborn" or start == 0
        self.send_response(200 if whole else 206)
        if not whole:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Handler.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_download_is_whole_and_leaves_no_part(server, tmp_path):
    path = download(f"{server}/good", tmp_path / "new/file.zip", **EXPECTED)
    assert path.read_bytes() == CONTENT
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.fault(24)
def test_a_cut_download_is_continued(server, tmp_path):
    path = tmp_path / "file.zip"
    with pytest.raises(DownloadError, match="100000 of 200000 bytes"):
        download(f"{server}/cut", path, **EXPECTED)
    assert not path.exists()
    download(f"{server}/good", path, **EXPECTED)
    assert path.read_bytes() == CONTENT
    assert Handler.requests == ["/cut 0", "/good 100000"]


def test_a_server_that_cannot_continue_is_asked_for_all(server, tmp_path):
    path = tmp_path / "file.zip"
    path.with_name("file.zip.part").write_bytes(b"x" * 1000)
    download(f"{server}/stubborn", path, **EXPECTED)
    assert path.read_bytes() == CONTENT


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("page", "removed what came, it is a web page"),
        ("wrong", "removed what came, its SHA-256 is"),
        ("long", "removed what came, it is more than the 200000 bytes"),
        ("missing", "the server answers 404"),
    ],
)
def test_a_wrong_download_is_removed(server, tmp_path, place, message):
    with pytest.raises(DownloadError, match=message):
        download(f"{server}/{place}", tmp_path / "file.zip", **EXPECTED)
    assert not list(tmp_path.glob("file*"))


@pytest.mark.fault(24)
def test_a_part_of_another_file_is_noticed(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="SHA-256"):
        download(f"{server}/good", tmp_path / "file.zip", **EXPECTED)
    assert not list(tmp_path.glob("file*"))


def test_no_server_is_a_download_error(tmp_path):
    with pytest.raises(DownloadError, match="refused"):
        download("http://127.0.0.1:1/x", tmp_path / "file.zip", **EXPECTED)


def test_addresses_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(DownloadError, match="only http, https and file"):
        download("ftp://127.0.0.1/x", tmp_path / "file.zip", **EXPECTED)


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    download(f"{server}/good", tmp_path / "file.zip", **EXPECTED)
    download(f"{server}/good", tmp_path / "file.zip", **EXPECTED)
    assert Handler.requests == ["/good 0"]


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("content", "message"),
    [(CONTENT[:-1], "199999 bytes instead of 200000"), (CONTENT[::-1], "its SHA-256 is")],
)
def test_a_wrong_file_that_is_there_is_not_used(server, tmp_path, content, message):
    (tmp_path / "file.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=f"{message}.*; remove it to download it"):
        download(f"{server}/good", tmp_path / "file.zip", **EXPECTED)


@pytest.mark.fault(24)
def test_a_verified_file_that_changed_is_hashed_again(server, tmp_path):
    path = download(f"{server}/good", tmp_path / "file.zip", **EXPECTED)
    flip(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DownloadError, match="its SHA-256 is"):
        download(f"{server}/good", path, **EXPECTED)


def test_download_true_fetches_the_zip_and_reads_it(root, tmp_path, monkeypatch):
    path = zipped(tmp_path / "published.zip", root / "ModelNet10")
    monkeypatch.setattr(
        modelnet10,
        "fetch",
        lambda place: fetch(
            place,
            url=path.as_uri(),
            size=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        ),
    )
    for _ in range(2):
        data = load(tmp_path / "new", download=True)
        assert_close(data[0].pos, load(root)[0].pos, atol=0, rtol=0)
    assert (tmp_path / "new/ModelNet10.zip").read_bytes() == path.read_bytes()


def test_nothing_is_downloaded_where_the_folder_is(root):
    assert fetch(root, url="ftp://never") == root / "ModelNet10"
