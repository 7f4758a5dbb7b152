from __future__ import annotations

import shutil

import pytest
import torch

from rsn2.data import (
    BrokenDataError,
    ImageFiles,
    MissingDataError,
    age_group,
    face_task,
    load_utkface,
    parse_face_name,
)

NAMES = {
    "plain": ("26_1_4_20170104235959123.jpg.chip.jpg", (26, 1, 4)),
    "oldest": ("116_0_3_20170104235959123.jpg.chip.jpg", (116, 0, 3)),
    "blank_before_jpg": ("24_0_1_20170116220224657 .jpg.chip.jpg", (24, 0, 1)),
    "no_dot_before_jpg": ("55_0_0_20170116232725357jpg.chip.jpg", (55, 0, 0)),
    "no_gender": ("39_1_20170116174525125.jpg.chip.jpg", None),
    "no_race": ("61_1_20170109142408075.jpg.chip.jpg", None),
}


@pytest.mark.parametrize("name, labels", NAMES.values(), ids=NAMES)
def test_names(name, labels):
    assert parse_face_name(name) == labels


@pytest.mark.parametrize(
    "name",
    [
        "26_2_4_20170104235959123.jpg.chip.jpg",
        "26_1_5_20170104235959123.jpg.chip.jpg",
        "1_1_1.jpg",
        "face.jpg.chip.jpg",
        "26_1_4_20170104235959123.jpg.chip.png",
        "",
    ],
)
def test_bad_names(name):
    with pytest.raises(ValueError, match="expected <age>_<gender"):
        parse_face_name(name)


def test_reads_labels_and_images(tmp_path, write):
    write.utkface(tmp_path)
    dataset = load_utkface(tmp_path)
    assert dataset.num_skipped == 3 and len(dataset.train) == 8 and len(dataset.test) == 2
    read = {path.name for split in dataset.splits().values() for path in split.x.paths}
    assert read.issuperset(write.odd_faces) and read.isdisjoint(write.short_faces)
    for split in dataset.splits().values():
        for path, labels in zip(split.x.paths, split.y.tolist(), strict=True):
            assert parse_face_name(path.name) == tuple(labels)


def test_images_are_read_when_asked_for(tmp_path, write):
    folder = write.utkface(tmp_path)
    images = ImageFiles(tuple(sorted(folder.glob("*.jpg.chip.jpg"))))
    image = images[0]
    assert image.dtype == torch.uint8 and list(image.shape) == [3, 20, 20]
    batch = images[torch.tensor([2, 0])]
    assert list(batch.shape) == [2, 3, 20, 20] and torch.equal(batch[1], image)
    assert list(images[1:4].shape) == [3, 3, 20, 20]
    assert list(images.resized(32)[0:2].shape) == [2, 3, 32, 32]
    assert list(images.resized(32)[0:0].shape) == [0, 3, 32, 32]
    images.paths[0].unlink()  # nothing is kept in memory
    with pytest.raises(MissingDataError, match="there is no such file"):
        images[0]
    with pytest.raises(ValueError, match="size must be at least 1"):
        images.resized(0)


def test_broken_images(tmp_path, write):
    folder = write.utkface(tmp_path, side=64)
    images = ImageFiles(tuple(sorted(folder.glob("*.jpg.chip.jpg"))))
    path = images.paths[1]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenDataError, match=r"expected a whole image, found (?i:.*truncated)") as caught:
        images[0:3]
    assert path.name in str(caught.value)
    path.write_bytes(b"<html>")
    with pytest.raises(BrokenDataError, match="expected a whole image, found cannot identify image file"):
        images[1]


def test_images_of_different_sizes(tmp_path, write):
    folder = write.utkface(tmp_path / "a", side=8)
    other = write.utkface(tmp_path / "b", side=9)
    images = ImageFiles((next(folder.iterdir()), next(other.iterdir())))
    with pytest.raises(BrokenDataError, match="an image of 8 x 8 as .*, found 9 x 9"):
        images[0:2]
    assert list(images.resized(4)[0:2].shape) == [2, 3, 4, 4]


def test_repeats_stay_in_one_part(tmp_path, write):
    folder = write.utkface(tmp_path, num_plain=3)
    original = sorted(folder.glob("*_*_*_2017011621*"))[0]
    repeats = {original.name}
    for i in range(40):
        name = f"{i + 1}_0_0_2018000000{i:06d}.jpg.chip.jpg"
        shutil.copyfile(original, folder / name)
        repeats.add(name)
    dataset = load_utkface(tmp_path)
    sides = [{path.name for path in split.x.paths} & repeats for split in (dataset.train, dataset.test)]
    assert sorted(map(len, sides)) == [0, 41]


def test_bad_name_is_an_error(tmp_path, write):
    (write.utkface(tmp_path) / "readme.txt").write_text("x")
    with pytest.raises(BrokenDataError, match=r"readme\.txt: expected a name <age>_<gender"):
        load_utkface(tmp_path)


def test_missing_and_empty(tmp_path):
    with pytest.raises(MissingDataError, match="rsn2 data fetch utkface"):
        load_utkface(tmp_path)
    (tmp_path / "utkface" / "UTKFace").mkdir(parents=True)
    with pytest.raises(BrokenDataError, match="at least two different images"):
        load_utkface(tmp_path)


def test_age_groups():
    ages = torch.tensor([0, 1, 10, 11, 20, 21, 90, 91, 116])
    assert age_group(ages).tolist() == [0, 0, 0, 1, 1, 2, 8, 9, 9]


def test_one_label_as_classes(tmp_path, write):
    write.utkface(tmp_path)
    dataset = load_utkface(tmp_path)
    sizes = {label: face_task(dataset, label).num_classes for label in ("age", "gender", "race")}
    assert sizes == {"age": 10, "gender": 2, "race": 5}
    assert torch.equal(face_task(dataset, "race").train.y, dataset.train.y[:, 2])
    assert torch.equal(face_task(dataset, "age").train.y, age_group(dataset.train.y[:, 0]))
    with pytest.raises(ValueError, match="one of age, gender, race, got 'height'"):
        face_task(dataset, "height")


def test_real_faces(real_data):
    dataset = load_utkface(real_data("utkface"))
    assert dataset.num_skipped == 3 and len(dataset.train) + len(dataset.test) == 23705
    labels = torch.cat([dataset.train.y, dataset.test.y])
    assert labels[:, 1].bincount().tolist() == [12391, 11314]
    assert labels[:, 2].bincount().tolist() == [10078, 4526, 3434, 3975, 1692]
    assert age_group(labels[:, 0]).bincount().tolist() == [3218, 1659, 7784, 4338, 2100, 2211, 1170, 685, 453, 66 + 21]
    names = {path.name for split in dataset.splits().values() for path in split.x.paths}
    assert "24_0_1_20170116220224657 .jpg.chip.jpg" in names and "55_0_0_20170116232725357jpg.chip.jpg" in names
    assert list(dataset.train.x[torch.arange(0, 18000, 500)].shape) == [36, 3, 200, 200]
    assert list(dataset.test.x.resized(256)[:2].shape) == [2, 3, 256, 256]
