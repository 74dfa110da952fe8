"""Where shapes come from: a folder or a zip of ``<class>/<split>/<file>``.

A zip is read in place. Nothing is extracted, so nothing can be written anywhere by it; entries that
try are an error all the same, because an archive that holds one is not the archive it claims to be.
"""

import os
import re
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

from datasets.off import MAX_BYTES, shown

SPLITS = ("train", "test")
MAX_RATIO = 200  # text of numbers shrinks about 5 times, the tightest deflate stream 1,032 times
MAX_TOTAL_BYTES = 16 << 30  # ModelNet40 unpacked has 10 GB


class SourceError(ValueError):
    """A folder or an archive does not hold what was asked for; the message names it."""


class FileSource(ABC):
    """Files by a name ``<class>/<split>/<file>``; subclasses find them.

    Attributes:
        label: Path of the source, for messages.
        folders: Names of its folders, those of the classes among them.
        files: Names to size in bytes and time of change in nanoseconds.
        misplaced: Files that are at another depth.
    """

    label: str
    folders: set[str]
    files: dict[str, tuple[int, int]]
    misplaced: list[str]

    @abstractmethod
    def place_of(self, name: str) -> Path:
        """Return the path of a file, for formats that name further files."""

    def name_of(self, name: str) -> str:
        """Spell the whole path of a file, for messages."""
        return shown(self.place_of(name))

    def read(self, names: Iterable[str]) -> Iterator[bytes]:
        """Yield the bytes of some of ``files``."""
        for name in names:
            size = self.files[name][0]
            if size > MAX_BYTES:
                raise SourceError(f"{self.name_of(name)}: {size} bytes are more than {MAX_BYTES}")
            yield self.place_of(name).read_bytes()


class FolderSource(FileSource):
    """The OFF files of a folder, or those of other formats; hidden ones are left out.

    Args:
        path: The folder whose children are the classes.
        suffixes: Of the files that count, in lower case.
    """

    def __init__(self, path: str | os.PathLike[str], suffixes: tuple[str, ...] = (".off",)) -> None:
        self.path = Path(path)
        self.label = shown(path)
        self.folders = {entry.name for entry in _visible(path) if entry.is_dir()}
        self.files: dict[str, tuple[int, int]] = {}
        self.misplaced: list[str] = []
        for name, entry in _find_meshes(self.path, suffixes):
            if name.count("/") == 2:
                status = entry.stat()
                self.files[name] = (status.st_size, status.st_mtime_ns)
            else:
                self.misplaced.append(name)

    def place_of(self, name: str) -> Path:
        """Return the path of a file."""
        return self.path / name


class ZipSource:
    """The OFF files of a zip archive, wherever in it the class folders are.

    ``__MACOSX`` and hidden files are left out, backslashes in names are taken for slashes.

    Attributes:
        label: Its path, for messages.
        folders: Names of the folders beside the first class folder.
        files: ``<class>/<split>/<file>.off`` to size in bytes and CRC-32.
        misplaced: OFF files at any other depth below.

    Args:
        path: The archive.
        classes: Names of class folders, by which the data set is found inside; None where any name
            is one, and the folders are known by ``train`` and ``test`` in them.
        suffixes: Of the files that count, in lower case.

    Raises:
        SourceError: Not a zip; an entry that is encrypted, a link, named twice, or placed outside
            the archive; sizes that only a decompression bomb has.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        classes: Collection[str] | None,
        suffixes: tuple[str, ...] = (".off",),
    ) -> None:
        self.path, self.suffixes = Path(path), suffixes
        self.label = shown(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise SourceError(
                f"{self.label}: not a zip archive that can be read: {error}"
            ) from None
        checked = self._check(entries)
        top = self._find_top(checked, classes)
        inside = {name[len(top) :]: info for name, info in checked.items() if name.startswith(top)}
        self.folders = {name.split("/")[0] for name in inside if "/" in name}
        meshes = {name: info for name, info in inside.items() if _is_mesh(name, suffixes)}
        self._entries = {name: info for name, info in meshes.items() if name.count("/") == 2}
        self.misplaced = sorted(set(meshes) - set(self._entries))
        self.files = {name: (info.file_size, info.CRC) for name, info in self._entries.items()}

    def read(self, names: Iterable[str]) -> Iterator[bytes]:
        """Yield the bytes of some of ``files``, whose CRC-32 is checked."""
        with zipfile.ZipFile(self.path) as archive:
            for name in names:
                try:
                    content = archive.read(self._entries[name])
                except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                    message = f"{self.name_of(name)}: damaged archive: {error}"
                    raise SourceError(message) from None
                yield content

    def name_of(self, name: str) -> str:
        """Spell the place of a file, for messages."""
        return f"{self.label}, {shown(name)}"

    def place_of(self, name: str) -> None:
        """Return None: what a file in an archive names beside itself is not looked for."""

    def _check(self, entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        """Refuse a hostile archive as a whole; return its entries by name with slashes."""
        checked: dict[str, zipfile.ZipInfo] = {}
        seen = set()
        for info in entries:
            name = info.filename.replace("\\", "/")
            problem = _hostile(name, info)
            if problem is None and name.casefold() in seen:
                problem = "is there twice"
            if problem:
                raise SourceError(f"{self.label}: refused, the entry {name[:200]!r} {problem}")
            seen.add(name.casefold())
            parts = PurePosixPath(name).parts
            if "__MACOSX" not in parts and not any(part.startswith(".") for part in parts):
                checked[name] = info
        total = sum(info.file_size for info in entries)
        if total > MAX_TOTAL_BYTES:
            raise SourceError(
                f"{self.label}: refused, it unpacks to {total} bytes, limit {MAX_TOTAL_BYTES}"
            )
        return checked

    def _find_top(self, names: Collection[str], classes: Collection[str] | None) -> str:
        """Return the prefix below which class folders are."""
        places = set()
        for name in names:
            parts = name.split("/")
            if len(parts) < 3 or not _is_mesh(parts[-1], self.suffixes):
                continue
            if parts[-2] in SPLITS if classes is None else parts[-3] in classes:
                places.add("".join(f"{part}/" for part in parts[:-3]))
        if len(places) != 1:
            found = f"in {len(places)} places: {sorted(places)[:5]}" if places else "nowhere"
            known = "" if classes is None else f"; the classes are {', '.join(sorted(classes))}"
            raise SourceError(f"{self.label}: <class>/<split>/ was found {found}{known}")
        return places.pop()


def find_inside(root: str | os.PathLike[str], name: str, hint: str) -> Path:
    """Return the folder ``root/<name>``, its zip, or else ``root`` itself.

    Raises:
        SourceError: There is no such path; the message gives the hint.
    """
    inside = (Path(root, name), Path(root, f"{name}.zip"), Path(root))
    place = next((path for path in inside if path.exists()), None)
    if place is None:
        raise SourceError(f"{shown(root)}: neither a folder nor a zip; {hint}")
    return place


def _visible(path: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """List a folder without what is hidden."""
    with os.scandir(path) as entries:
        return [e for e in entries if not e.name.startswith(".") and e.name != "__MACOSX"]


def _find_meshes(
    path: Path, suffixes: tuple[str, ...], prefix: str = ""
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield files and their names below ``path``, as deep as one could be misplaced."""
    for entry in _visible(path / prefix):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            if name.count("/") < 3:  # links may lead in circles
                yield from _find_meshes(path, suffixes, f"{name}/")
        elif _is_mesh(name, suffixes):
            yield name, entry


def _is_mesh(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes) and not PurePosixPath(name).name.startswith(".")


def _hostile(name: str, info: zipfile.ZipInfo) -> str | None:
    """Say what is wrong with an entry of an archive, if anything is."""
    mode = info.external_attr >> 16
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        return "lies outside the archive"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.file_size > MAX_BYTES:
        return f"claims {info.file_size} bytes, limit {MAX_BYTES}"
    if info.file_size > MAX_RATIO * max(info.compress_size, 5000):
        return f"unpacks from {info.compress_size} to {info.file_size} bytes"
    return None
