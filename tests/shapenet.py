"""ShapeNet Part's layout in small, for tests."""

import json
from pathlib import Path

import numpy as np

from datasets.shapenet_part import KINDS

LISTED = {
    "train": ["chair/a", "chair/b", "mug/c"],
    "val": ["mug/d"],
    "test": ["airplane/e"],
}
NUM_POINTS = 30


def write_shapenet(folder: Path, listed=LISTED) -> Path:
    """Write a cloud for every shape: its first part below (y is up), its last one above."""
    (folder / "train_test_split").mkdir(parents=True)
    starts = dict(zip(KINDS, np.cumsum([0, *(n for _, n in KINDS.values())]), strict=False))
    for split, shapes in listed.items():
        entries = []
        for number, (kind, name) in enumerate(shape.split("/") for shape in shapes):
            synset, count = KINDS[kind]
            generator = np.random.default_rng(number)
            points, normals = generator.normal(size=(2, NUM_POINTS, 3))
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
            part = starts[kind] + (count - 1) * (points[:, 1] > 0)
            path = folder / synset / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            np.savetxt(path, np.column_stack([points, normals, part]), fmt="%.6f")
            entries.append(f"shape_data/{synset}/{name}")
        place = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
        place.write_text(json.dumps(entries))
    return folder
