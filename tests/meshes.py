"""ModelNet10's layout in small, and files that are not to be trusted, for tests."""

import zipfile
from pathlib import Path

import numpy as np

from datasets.modelnet10 import CLASSES, ModelNet10
from datasets.off import format_off

FEW = dict.fromkeys(CLASSES, (2, 1))
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def mesh_text(kind, number):
    """A tetrahedron that no other class and number has."""
    height = 1 + CLASSES.index(kind) + number / 10
    return format_off(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, height]]), FACES)


def fill(folder, counts=FEW):
    """Write ModelNet10's layout with few shapes; numbers run on from train to test."""
    for kind, (num_train, num_test) in counts.items():
        for number in range(1, num_train + num_test + 1):
            split = "train" if number <= num_train else "test"
            path = folder / kind / split / f"{kind}_{number:04}.off"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mesh_text(kind, number))
    return folder


def load(root, split="train", **options):
    return ModelNet10(root, split, **{"num_points": 32, "expected_counts": FEW, **options})


def zipped(path, folder, prefix="ModelNet10/"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.off")):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


def flip(path, place=10):
    """Flip a bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


class Canary:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))
