"""All six data sets in a form of seconds, in the published formats."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory, write) -> Path:
    """Images of ten kinds that differ by a bright row, 200 to train and 50 to test; little of everything else."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in ("mnist", "fashion_mnist"):
        for part, rows in (("train", 200), ("t10k", 50)):
            labels = np.arange(rows) % 10
            images = random.integers(0, 40, (rows, 28, 28))
            images[np.arange(rows), 2 * labels + 3] += 200
            write.idx(root / name / f"{part}-images-idx3-ubyte.gz", images)
            write.idx(root / name / f"{part}-labels-idx1-ubyte.gz", labels)
    folder = root / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = random.integers(0, 256, (20, 3072)).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": [i % 10 for i in range(20)]}, protocol=2))
    write.housing(root, num_rows=60)
    write.imdb(root, per_sentiment=20)
    image = pytest.importorskip("PIL.Image", reason="Pillow writes the pictures")
    faces = root / "utkface" / "UTKFace"
    faces.mkdir(parents=True)
    for number in range(40):
        pixels = random.integers(0, 256, (20, 20, 3)).astype(np.uint8)
        name = f"{1 + 2 * number}_{number % 2}_{number % 5}_2017011621{number:06d}.jpg.chip.jpg"
        image.fromarray(pixels).save(faces / name, format="JPEG")
    return root
