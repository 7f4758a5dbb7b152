from __future__ import annotations

import errno
import hashlib
import http.server
import io
import shutil
import tarfile
import threading
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from rsn2.data import SOURCES, BrokenDataError, DataFolderError, MissingDataError, fetch, fetching, fingerprint
from rsn2.data.fetching import FetchError
from rsn2.data.sources import RemoteFile

pytest.importorskip("pooch", reason="pooch downloads")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A web server on this machine over `served.folder`; `served.asked` lists the paths that were asked for."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield SimpleNamespace(folder=folder, url=f"http://127.0.0.1:{server.server_address[1]}/", asked=server.asked)
    server.shutdown()
    server.server_close()
    thread.join()


def _publish(monkeypatch, name, original, files):
    dataset = SOURCES[name].load(original)
    counts = {"num_train": len(dataset.train), "num_test": len(dataset.test)}
    source = replace(SOURCES[name], files=files, fingerprint=fingerprint(dataset), needed_bytes=1000, **counts)
    monkeypatch.setitem(SOURCES, name, source)


def _remote(served, path, *, algorithm="sha256", mirrors=()):
    checksum = hashlib.new(algorithm, path.read_bytes()).hexdigest()
    return RemoteFile(path.name, f"{algorithm}:{checksum}", (*mirrors, served.url + path.name))


@pytest.fixture
def mnist(tmp_path, served, write, monkeypatch):
    """A tiny MNIST that the server publishes; the first address of every file does not answer."""
    original = write.mnist(tmp_path / "original")
    for path in original.iterdir():
        shutil.copyfile(path, served.folder / path.name)
    files = tuple(_remote(served, p, mirrors=(served.url + "gone/",)) for p in sorted(served.folder.iterdir()))
    _publish(monkeypatch, "mnist", tmp_path / "original", files)
    return original


@pytest.fixture
def cifar10(tmp_path, served, write, monkeypatch):
    """A tiny CIFAR-10 archive, with members that must not be unpacked."""
    write.cifar10(tmp_path / "original")
    folder = tmp_path / "original" / "cifar10"
    archive = served.folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / "cifar-10-batches-py", arcname="cifar-10-batches-py")
        for name in ("../escaped", "/tmp/rsn2-escaped", "cifar-10-batches-py/readme.html"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    _publish(monkeypatch, "cifar10", tmp_path / "original", (_remote(served, archive, algorithm="md5"),))
    return folder


def _names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_plain_files(tmp_path, served, mnist):
    root = tmp_path / "new" / "data"
    assert fetch("mnist", root) == root / "mnist"
    assert _names(root) == ["mnist", *(f"mnist/{name}" for name in _names(mnist))]
    assert any("gone" in path for path in served.asked)  # the next address was tried
    assert (root / "mnist").stat().st_mode == root.stat().st_mode


def test_the_second_time_nothing_is_asked_for(tmp_path, served, mnist):
    fetch("mnist", tmp_path / "data")
    served.asked.clear()
    fetch("mnist", tmp_path / "data")
    assert served.asked == []


def test_archive_unpacks_only_what_is_wanted(tmp_path, cifar10):
    root = tmp_path / "deep" / "data"
    fetch("cifar10", root)
    expected = [name for name in _names(cifar10) if name != "readme.html"]
    assert _names(root / "cifar10") == expected and _names(root.parent) == [
        "data",
        *(f"data/{n}" for n in _names(root)),
    ]
    assert not (root / "cifar10" / "cifar-10-batches-py" / "data_batch_1").is_symlink()


def test_a_progress_bar_is_told(tmp_path, cifar10):
    events = []

    class Bar:
        total = 0

        def update(self, num_bytes):
            events.append(num_bytes)

        def reset(self):
            events.clear()

        def close(self):
            events.append("closed")

    bar = Bar()
    fetch("cifar10", tmp_path / "data", progressbar=bar)
    assert events == [bar.total, "closed"] and bar.total > 0


def _left_behind(root):
    return _names(root) if root.exists() else []


def test_a_wrong_checksum_leaves_nothing(tmp_path, served, mnist):
    (served.folder / "train-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(
        FetchError, match=r"mnist: no address delivered train-labels.*does not match.*by hand"
    ) as caught:
        fetch("mnist", tmp_path / "data")
    assert "404" in str(caught.value)  # what the first address said
    assert _left_behind(tmp_path / "data") == []


def test_no_network(tmp_path, mnist, monkeypatch):
    files = tuple(replace(file, urls=("http://127.0.0.1:9/x",)) for file in SOURCES["mnist"].files)
    monkeypatch.setitem(SOURCES, "mnist", replace(SOURCES["mnist"], files=files))
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:9/x: .*refused"):
        fetch("mnist", tmp_path / "data")
    assert _left_behind(tmp_path / "data") == []


def test_content_that_is_not_the_published(tmp_path, mnist, monkeypatch):
    monkeypatch.setitem(SOURCES, "mnist", replace(SOURCES["mnist"], fingerprint="0" * 64))
    with pytest.raises(BrokenDataError, match="expected the published content, found differs"):
        fetch("mnist", tmp_path / "data")
    assert _left_behind(tmp_path / "data") == []


def test_a_broken_archive(tmp_path, served, cifar10, monkeypatch):
    archive = served.folder / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:200])
    files = (_remote(served, archive),)
    monkeypatch.setitem(SOURCES, "cifar10", replace(SOURCES["cifar10"], files=files))
    with pytest.raises(BrokenDataError, match="expected a whole tar archive"):
        fetch("cifar10", tmp_path / "data")
    assert _left_behind(tmp_path / "data") == []


def test_what_lies_in_the_way_is_kept(tmp_path, served, mnist):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DataFolderError, match=r"mnist is in the way: broken, .*move or delete it"):
        fetch("mnist", tmp_path / "data")
    assert served.asked == [] and _names(folder) == ["notes.txt"]
    (folder / "notes.txt").unlink()
    fetch("mnist", tmp_path / "data")  # an empty folder is not in the way
    assert len(_names(folder)) == 4


def test_a_file_in_the_way(tmp_path, mnist):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").write_text("a file")
    with pytest.raises(DataFolderError, match="is in the way: broken"):
        fetch("mnist", tmp_path / "data")
    with pytest.raises(DataFolderError, match=r"cannot be written: .* is a file, not a folder"):
        fetch("mnist", tmp_path / "data" / "mnist" / "inner")


def test_not_enough_disk(tmp_path, served, mnist, monkeypatch):
    monkeypatch.setitem(SOURCES, "mnist", replace(SOURCES["mnist"], needed_bytes=2**62))
    with pytest.raises(DataFolderError, match=r"mnist needs \d+ MiB, \d+ MiB are free"):
        fetch("mnist", tmp_path / "data")
    assert served.asked == []


FAILURES = {
    "full": (errno.ENOSPC, "no space is left on the disk"),
    "read_only": (errno.EROFS, "the file system is read-only"),
    "denied": (errno.EACCES, "permission denied"),
}


@pytest.mark.parametrize("code, message", FAILURES.values(), ids=FAILURES)
def test_disk_errors_while_unpacking(tmp_path, cifar10, monkeypatch, code, message):
    copy = shutil.copyfileobj

    def fail(source, target, *options):
        if ".part-" in str(getattr(target, "name", "")):
            raise OSError(code, "as the system says it")
        copy(source, target, *options)  # the web server's

    monkeypatch.setattr(fetching.shutil, "copyfileobj", fail)
    with pytest.raises(DataFolderError, match=rf"data: cannot be written: {message}; choose another folder"):
        fetch("cifar10", tmp_path / "data")
    assert _left_behind(tmp_path / "data") == []


def test_an_interruption_leaves_nothing(tmp_path, cifar10, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "_unpack", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch("cifar10", tmp_path / "data")
    assert _left_behind(tmp_path / "data") == []


def test_faces_are_got_by_hand(tmp_path):
    with pytest.raises(FetchError, match=r"non-commercial research.*lay it out as .*utkface/UTKFace/.*rsn2 data check"):
        fetch("utkface", tmp_path)


def test_names_and_folders(monkeypatch):
    with pytest.raises(ValueError, match="there is no data set 'imagenet'"):
        fetch("imagenet", "/nowhere")
    monkeypatch.delenv("RSN2_DATA", raising=False)
    with pytest.raises(MissingDataError, match="no data folder is known"):
        fetch("mnist")


def test_the_published_sources():
    fetched = {name for name, source in SOURCES.items() if source.files}
    assert fetched == {"mnist", "fashion_mnist", "cifar10", "boston_housing", "imdb"}
    for source in SOURCES.values():
        assert len(source.fingerprint) == 64 and source.num_train > 0 and source.num_test > 0
        for file in source.files:
            algorithm, digest = file.checksum.split(":")
            assert len(digest) == 2 * hashlib.new(algorithm).digest_size
            assert file.urls and all(url.endswith("/" + file.name) for url in file.urls)
