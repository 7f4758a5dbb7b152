from __future__ import annotations

from dataclasses import replace

import pytest

from rsn2.data import SOURCES, fingerprint, load_mnist

testing = pytest.importorskip("typer.testing", reason="typer is the command line")
pytest.importorskip("rich", reason="rich prints the table")

from rsn2.data.cli import app  # noqa: E402  (needs typer and rich)


@pytest.fixture
def rsn2_data(monkeypatch):
    """Run `rsn2 data ...`."""
    monkeypatch.delenv("RSN2_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    runner = testing.CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def complete_mnist(tmp_path, write, monkeypatch):
    write.mnist(tmp_path)
    dataset = load_mnist(tmp_path)
    source = replace(SOURCES["mnist"], num_train=13, num_test=4, fingerprint=fingerprint(dataset))
    monkeypatch.setitem(SOURCES, "mnist", source)
    return tmp_path


def test_check_lists_what_is_there(complete_mnist, rsn2_data):
    result = rsn2_data("check", "--data-dir", complete_mnist)
    assert result.exit_code == 0, result.output
    assert "13 + 4 rows, content as published" in result.output
    assert f"rsn2 data fetch cifar10 --data-dir {complete_mnist}" in result.output
    assert "utkface is not fetched" in result.output


def test_check_fails_for_what_was_named_and_is_missing(complete_mnist, rsn2_data):
    assert rsn2_data("check", "mnist", "--data-dir", complete_mnist).exit_code == 0
    assert rsn2_data("check", "mnist", "imdb", "--data-dir", complete_mnist).exit_code == 1


def test_check_fails_where_nothing_is(tmp_path, rsn2_data):
    assert rsn2_data("check", "--data-dir", tmp_path / "absent").exit_code == 1


def test_check_fails_for_what_is_broken(complete_mnist, rsn2_data):
    (complete_mnist / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"x")
    result = rsn2_data("check", "--data-dir", complete_mnist)
    assert result.exit_code == 1 and "broken" in result.output and "a whole gzip file" in result.output


def test_check_shows_brackets_as_they_are(tmp_path, write, rsn2_data):
    (write.imdb(tmp_path) / "test" / "neg" / "[red].txt").write_text("x")
    result = rsn2_data("check", "imdb", "--data-dir", tmp_path)
    assert result.exit_code == 1 and "[red].txt" in result.output.replace("\n", "")


def test_the_folder_may_come_from_the_environment(complete_mnist, rsn2_data, monkeypatch):
    monkeypatch.setenv("RSN2_DATA", str(complete_mnist))
    assert rsn2_data("check", "mnist").exit_code == 0


@pytest.mark.parametrize("command", ["fetch", "check"])
def test_errors_are_one_line(rsn2_data, tmp_path, command):
    result = rsn2_data(command, "mnist")
    assert result.exit_code == 1 and "no data folder is known" in result.output
    result = rsn2_data(command, "imagenet", "--data-dir", tmp_path)
    assert result.exit_code == 1 and "there is no data set 'imagenet'; there are mnist" in result.output
    assert "Traceback" not in result.output


def test_fetch_keeps_what_is_complete(complete_mnist, rsn2_data):
    result = rsn2_data("fetch", "mnist", "--data-dir", complete_mnist)
    assert result.exit_code == 0 and f"mnist: complete in {complete_mnist / 'mnist'}" in result.output


def test_fetch_says_how_faces_are_got(tmp_path, rsn2_data):
    result = rsn2_data("fetch", "utkface", "--data-dir", tmp_path)
    assert result.exit_code == 1 and "https://susanqq.github.io/UTKFace/" in result.output
    assert "utkface/UTKFace/: <age>_<gender>_<race>_<date&time>.jpg.chip.jpg" in result.output


def test_fetch_of_all_goes_on_after_the_faces(tmp_path, rsn2_data, monkeypatch):
    for name in SOURCES:
        monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], files=()))
    result = rsn2_data("fetch", "--data-dir", tmp_path)
    assert result.exit_code == 0 and all(f"{name} is not fetched" in result.output for name in SOURCES)


def test_fetch_reports_a_failure(tmp_path, rsn2_data, monkeypatch):
    file = replace(SOURCES["mnist"].files[0], urls=("http://127.0.0.1:9/x",))
    monkeypatch.setitem(SOURCES, "mnist", replace(SOURCES["mnist"], files=(file,)))
    result = rsn2_data("fetch", "mnist", "--data-dir", tmp_path)
    assert result.exit_code == 1 and "no address delivered" in result.output and "Traceback" not in result.output
