"""The residual network in two tasks: moved images, and what a line holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rsn2.data import TensorBatches
from rsn2.experiments import load_experiment, scale
from rsn2.experiments.running import run
from rsn2.experiments.scale import MovedImages, moved
from rsn2.experiments.tasks import prepared

OPTIONS = dict(seeds=[0], smoke=True, progress=False, say=lambda line: None)
IMAGES = torch.from_numpy(np.random.RandomState(0).randint(1, 256, (40, 3, 8, 6)).astype(np.uint8))


def test_a_line_holds_all_metrics(tiny_data, tmp_path):
    lines = run(load_experiment("scale"), tmp_path, data_dir=tiny_data, variants=["gradient-0.5", "random-0.1",
                "control"], **OPTIONS)  # fmt: skip
    assert [(line["variant"], line["stage"]) for line in lines] == [
        (variant, stage) for variant in ("gradient-0.5", "random-0.1", "control") for stage in ("first", "second")
    ]
    for line in lines:
        metrics = line["metrics"]
        found = metrics["tasks"][line["stage"]]
        assert 0 <= found["accuracy"] <= 1 and 0 <= found["validation"]["accuracy"] <= 1 and len(found["f1"]) == 5
        assert metrics["epochs"] == 1 and metrics["seconds_per_epoch"] > 0 and metrics["bytes"]["file"] > 0
        assert metrics["rows"][line["stage"]] == {"train": 40, "validation": 10, "test": 10}
        share = {"gradient-0.5": 0.5, "random-0.1": 0.1, "control": 1}[line["variant"]]
        for layer, owned in metrics["owned_per_layer"].items():
            assert owned[line["stage"]] == int(share * metrics["weights_per_layer"][layer])
        if line["stage"] == "second" and line["variant"] != "control":
            assert metrics["outputs_of_earlier_tasks"] == "the same bits"


def test_every_keep_with_both_scores_and_a_control():
    experiment = load_experiment("scale")
    found = {(v.settings.score, v.settings.keep) for v in experiment.variants.values() if not v.is_control}
    assert found == {(score, keep) for score in ("gradient", "random") for keep in (0.5, 0.2, 0.1)}
    assert experiment.controls == ("control",)


def test_the_tasks_have_five_classes_each(tiny_data):
    settings = scale.Settings().__dict__
    for task in scale.tasks(settings).values():
        data = prepared(task, settings, tiny_data)
        assert data.train.y.unique().tolist() == [0, 1, 2, 3, 4] and task.num_classes == 5
    assert sorted(sum(scale.CLASSES.values(), ())) == list(range(10))


def test_moved_images_are_pieces_of_the_padded_ones():
    result = moved(IMAGES, np.random.RandomState(1))
    assert result.shape == IMAGES.shape and result.dtype == torch.uint8
    padded = F.pad(IMAGES, (4,) * 4)
    kinds = []
    for image, whole in zip(result, padded, strict=True):
        places = [
            (y, x, mirrored)
            for y in range(9)
            for x in range(9)
            for mirrored in (False, True)
            if torch.equal(image.flip(2) if mirrored else image, whole[:, y : y + 8, x : x + 6])
        ]
        assert len(places) == 1
        kinds += places
    assert len({kind[0] for kind in kinds}) > 5 and len({kind[1] for kind in kinds}) > 5
    assert 8 < sum(kind[2] for kind in kinds) < 32  # of 40, binomial: outside less than once in 10 000


def test_slices_are_as_they_are_and_rows_are_moved_the_same_way_again():
    images = MovedImages(IMAGES)
    assert torch.equal(images[3:9], IMAGES[3:9]) and len(images) == 40
    rows, others = torch.tensor([4, 1, 7]), torch.tensor([4, 1, 8])
    assert torch.equal(images[rows], images[rows]) and not torch.equal(images[rows], IMAGES[rows])
    assert not torch.equal(images[rows][:2], images[others][:2])


def test_every_epoch_moves_them_otherwise_and_a_second_run_alike():
    def epochs():
        batches = TensorBatches(MovedImages(IMAGES), torch.arange(40), 40, shuffle=True, seed=3)
        return [x[y.argsort()] for _ in range(2) for x, y in batches]

    first, again = epochs(), epochs()
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("part", ["validation", "test"])
def test_only_training_images_are_moved(tiny_data, part):
    settings = scale.Settings().__dict__
    data = prepared(scale.tasks(settings)["first"], settings, tiny_data)
    split = data.splits()[part]
    batches = list(TensorBatches(split.x, split.y, 4))
    everything = split.x.images if part == "validation" else split.x
    assert torch.equal(torch.cat([x for x, _ in batches]), everything)
