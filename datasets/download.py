"""Download a file whose size and hash are known; a broken attempt is continued by the next."""

import http.client
import json
import logging
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from datasets.atomic import lock_for, sha256_of
from datasets.off import shown

_CHUNK = 1 << 20
_log = logging.getLogger(__name__)


class DownloadError(OSError):
    """A download did not give the file it promised; the message says what to do."""


def download(
    url: str,
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    sha256: str,
    timeout: float = 60.0,
) -> Path:
    """Make sure that ``path`` is the file with this size and hash, and fetch it if it is not there.

    Bytes go to ``<path>.part``, which is renamed once size and hash are right. A cut connection
    leaves it for the next call to continue; wrong content is removed. A file that is already there
    is trusted only after a look at its hash; that look is remembered in ``<path>.verified``.

    Args:
        url: ``http``, ``https`` or ``file`` address.
        path: Where the file goes; its folder is created.
        size: Bytes it must have; where they are not known, those that the server tells.
        sha256: Hash it must have, in hexadecimal digits.
        timeout: Seconds to wait for an answer.

    Returns:
        The path.

    Raises:
        DownloadError: No connection, a cut one, wrong size or wrong hash.
    """
    path = Path(path)
    with lock_for(path):  # one process downloads, the others wait
        if path.exists():
            _check_existing(path, size, sha256)
            return path
        part = path.with_name(f"{path.name}.part")
        _fetch(url, part, _told_size(url, timeout) if size is None else size, timeout)
        digest = sha256_of(part)
        if digest != sha256:
            part.unlink()
            raise DownloadError(
                f"{url}: removed what came, its SHA-256 is {digest} instead of {sha256}"
            )
        os.replace(part, path)
        _remember(path, sha256)
    return path


def fetch_zip(root: str | os.PathLike[str], *, name: str, url: str, **known: Any) -> Path:
    """Return the folder ``root/<name>``, or else its zip, downloaded if it is not there.

    Args:
        root: Folder for the zip.
        name: Of the data set.
        url: Where the zip is.
        **known: As for :func:`download`.

    Raises:
        DownloadError: As in :func:`download`.
    """
    folder = Path(root, name)
    return folder if folder.is_dir() else download(url, Path(root, f"{name}.zip"), **known)


def _check_existing(path: Path, size: int | None, sha256: str) -> None:
    """Refuse a file that is not the right one; hash it unless nothing changed since last time."""
    status = path.stat()
    if size not in (None, status.st_size):
        raise DownloadError(
            f"{shown(path)}: has {status.st_size} bytes instead of {size}; remove it to download it"
        )
    try:
        known = json.loads(_note(path).read_text("ascii"))
    except (OSError, ValueError):
        known = None
    if known == {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}:
        return
    digest = sha256_of(path)
    if digest != sha256:
        raise DownloadError(
            f"{shown(path)}: its SHA-256 is {digest} instead of {sha256}; remove it to download it"
        )
    _remember(path, sha256)


def _told_size(url: str, timeout: float) -> int:
    """Ask the server how many bytes a file has."""
    request = urllib.request.Request(_checked(url), method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, http.client.HTTPException, TypeError, ValueError) as error:
        raise DownloadError(f"{url}: the server does not tell the size: {error}") from error


def _checked(url: str) -> str:
    if not re.match(r"(https?|file)://", url):
        raise DownloadError(f"{url}: only http, https and file addresses are fetched")
    return url


def _fetch(url: str, part: Path, size: int, timeout: float) -> None:
    """Bring ``part`` to ``size`` bytes, continuing what is there if the server can."""
    _checked(url)
    have = part.stat().st_size if part.exists() else 0
    if have == size:
        return
    if have > size:
        part.unlink()
        have = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                mode = "ab"
            else:
                mode, have = "wb", 0
            with open(part, mode) as file:
                while have <= size and (chunk := answer.read(_CHUNK)):
                    file.write(chunk)
                    have += len(chunk)
                    _log.info("%s: %d of %d bytes", url, have, size)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{url}: {error}; {have} bytes are kept for the next try") from error
    if have > size:
        part.unlink()
        raise DownloadError(f"{url}: removed what came, it is more than the {size} bytes expected")
    if have < size:
        _refuse_short(url, part, have, size)


def _refuse_short(url: str, part: Path, have: int, size: int) -> None:
    """Keep the beginning of the file, remove a page that came in its place."""
    with open(part, "rb") as file:
        page = file.read(512).lstrip()[:1] == b"<"
    if page:
        part.unlink()
        raise DownloadError(f"{url}: removed what came, it is a web page and not the file")
    raise DownloadError(
        f"{url}: cut after {have} of {size} bytes; they are kept in {shown(part)}, "
        "call again to continue"
    )


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _remember(path: Path, sha256: str) -> None:
    status = path.stat()
    known = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
    _note(path).write_text(json.dumps(known), "ascii")
