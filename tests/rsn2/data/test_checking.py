from __future__ import annotations

import gzip
from dataclasses import replace

import pytest

from rsn2.data import SOURCES, check, fingerprint, load_imdb, load_mnist, load_utkface

WRITERS = {
    "mnist": "mnist",
    "cifar10": "cifar10",
    "boston_housing": "housing",
    "imdb": "imdb",
    "utkface": "utkface",
}


@pytest.fixture
def publish(tmp_path, write, monkeypatch):
    """`publish(name)`: write the tiny data set and take it for the published one."""

    def install(name):
        getattr(write, WRITERS[name])(tmp_path)
        dataset = SOURCES[name].load(tmp_path)
        source = replace(
            SOURCES[name], num_train=len(dataset.train), num_test=len(dataset.test), fingerprint=fingerprint(dataset)
        )
        monkeypatch.setitem(SOURCES, name, source)
        return tmp_path

    return install


@pytest.mark.parametrize("name", WRITERS)
def test_complete(publish, name):
    result = check(name, publish(name))
    assert result.status == "complete", result
    assert "content as published" in result.detail


def test_counts_that_differ(tmp_path, write):
    write.mnist(tmp_path)
    result = check("mnist", tmp_path)
    assert result.status == "differs" and "13 + 4 rows, published are 60000 + 10000" in result.detail


def test_content_that_differs(publish, write):
    root = publish("mnist")
    folder = write.mnist(root)
    path = folder / "t10k-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))
    result = check("mnist", root)
    assert result.status == "differs" and "but content" in result.detail


def test_compression_does_not_matter(publish):
    root = publish("mnist")
    path = root / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))
    assert check("mnist", root).status == "complete"


def test_fingerprint_sees_texts_labels_and_names(tmp_path, write):
    write.imdb(tmp_path)
    write.utkface(tmp_path)
    texts, faces = load_imdb(tmp_path), load_utkface(tmp_path)
    changed = replace(texts, test=replace(texts.test, x=(texts.test.x[0] + " ", *texts.test.x[1:])))
    relabelled = replace(texts, test=replace(texts.test, y=1 - texts.test.y))
    fewer = replace(faces, test=faces.test.take(slice(0, 1)))
    swapped = replace(faces, train=faces.test, test=faces.train)
    prints = [fingerprint(dataset) for dataset in (texts, changed, relabelled, faces, fewer)]
    assert len(set(prints)) == 5
    assert fingerprint(swapped) == prints[3]  # only the names count


def test_missing_and_broken(tmp_path, write):
    assert check("mnist", tmp_path).status == "missing"
    (write.mnist(tmp_path) / "t10k-images-idx3-ubyte.gz").write_bytes(b"x")
    result = check("mnist", tmp_path)
    assert result.status == "broken" and "t10k-images-idx3-ubyte.gz" in result.detail
    (tmp_path / "cifar10").write_text("a file")
    assert check("cifar10", tmp_path).status == "broken"


def test_every_image_is_decoded(publish):
    root = publish("utkface")
    calls = []
    assert check("utkface", root, on_image=lambda done, total: calls.append((done, total))).status == "complete"
    assert calls == [(i + 1, 10) for i in range(10)]
    dataset = load_utkface(root)
    path = dataset.train.x.paths[-1]
    path.write_bytes(path.read_bytes()[:300])
    result = check("utkface", root)
    assert result.status == "broken" and path.name in result.detail


def test_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="there is no data set 'cifar100'; there are mnist, fashion_mnist, cifar10"):
        check("cifar100", tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_real_data_are_as_published(real_data, name):
    result = check(name, real_data(name))
    assert result.status == "complete", result


def test_load_is_the_reader_of_the_name(tmp_path, write):
    write.mnist(tmp_path)
    assert fingerprint(SOURCES["mnist"].load(tmp_path)) == fingerprint(load_mnist(tmp_path))
