"""Experiment 3 in its smoke form, on tiny files of the published format, and on the real ones where they are."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rsn2.cli import app
from rsn2.experiments import load_experiment, records
from rsn2.experiments.exp3 import Settings, load
from rsn2.experiments.running import run
from rsn2.report.results import as_markdown, tables, write_report


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0))


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory) -> Path:
    """Ten kinds of images that differ by a bright row, 200 to train and 50 to test, for both data sets."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in ("mnist", "fashion_mnist"):
        (root / name).mkdir()
        for part, rows in (("train", 200), ("t10k", 50)):
            labels = np.arange(rows) % 10
            images = random.integers(0, 40, (rows, 28, 28))
            images[np.arange(rows), 2 * labels + 3] += 200
            write_idx(root / name / f"{part}-images-idx3-ubyte.gz", images)
            write_idx(root / name / f"{part}-labels-idx1-ubyte.gz", labels)
    return root


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory) -> Path:
    """A folder of results: every variant in its smoke form, seeds 0 and 1, through the command line."""
    out = tmp_path_factory.mktemp("out")
    done = CliRunner().invoke(
        app,
        [
            "run",
            "exp3",
            "--smoke",
            "--no-progress",
            "--seeds",
            "0",
            "1",
            "--data-dir",
            str(tiny_data),
            "--out",
            str(out),
        ],
    )
    assert done.exit_code == 0, done.output
    assert (out / "exp3.md").read_text() in done.output
    return out


def lines_of(out: Path) -> list[dict]:
    return records.read_lines(out / "results.jsonl")


def test_every_unit_has_its_line(finished):
    units = [(line["seed"], line["variant"], line["stage"]) for line in lines_of(finished)]
    stages = (("base", "together"), ("rescaled", "together"), ("control", "digits"), ("control", "fashion"))
    assert units == [(seed, variant, stage) for seed in (0, 1) for variant, stage in stages]


def test_a_line_holds_all_metrics(finished):
    for line in lines_of(finished):
        for task, metrics in line["metrics"]["tasks"].items():
            assert 0 <= metrics["accuracy"] <= 1 and metrics["loss"] > 0 and len(metrics["f1"]) == 10
            assert "accuracy" in metrics["validation"]
            assert line["metrics"]["rows"][task] == {"train": 160, "validation": 40, "test": 50}
        assert line["metrics"]["epochs"] == 2 and line["metrics"]["best_epoch"] in (1, 2)
        assert line["wall_seconds"] > 0 and line["peak_memory_bytes"] > 0
        assert line["metrics"]["bytes"]["file"] > 0


def test_each_task_owns_exactly_a_tenth_of_every_layer(finished):
    shapes = {"hidden1": 784 * 64, "hidden2": 64 * 48, "output": 48 * 10}
    for line in lines_of(finished):
        owned = line["metrics"]["owned_per_layer"]
        if line["variant"] == "control":
            assert owned == {name: {line["stage"]: numel} for name, numel in shapes.items()}
        else:
            assert owned == {name: dict.fromkeys(("digits", "fashion"), numel // 10) for name, numel in shapes.items()}
        assert line["metrics"]["owned_weights"] == sum(sum(counts.values()) for counts in owned.values())


def test_finished_units_are_skipped(finished, tiny_data):
    before = (finished / "results.jsonl").read_bytes()
    said: list[str] = []
    run(
        load_experiment("exp3"), finished, data_dir=tiny_data, seeds=[0, 1], smoke=True, progress=False, say=said.append
    )
    assert (finished / "results.jsonl").read_bytes() == before
    assert len(said) == 8 and all(line.endswith("finished before, skipped") for line in said)


def test_one_seed_gives_the_same_numbers_again(finished, tiny_data, tmp_path):
    (again,) = run(load_experiment("exp3"), tmp_path, data_dir=tiny_data, seeds=[0], variants=["base"], smoke=True,
                   progress=False, say=lambda line: None)  # fmt: skip
    first = lines_of(finished)[0]
    assert again["metrics"]["tasks"] == first["metrics"]["tasks"]
    assert again["settings_hash"] == first["settings_hash"]


def test_an_interrupted_unit_ends_as_one_that_was_not(finished, tiny_data, tmp_path, monkeypatch):
    from rsn2.procedure.run import Run

    train_epoch = Run._train_epoch

    def interrupted(self, *args):
        if self.epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(self, *args)

    options = dict(data_dir=tiny_data, seeds=[1], variants=["base"], smoke=True, progress=False, say=lambda line: None)
    monkeypatch.setattr(Run, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(load_experiment("exp3"), tmp_path, **options)
    monkeypatch.undo()
    assert lines_of(tmp_path) == [] and len(list((tmp_path / "checkpoints").iterdir())) == 1
    (resumed,) = run(load_experiment("exp3"), tmp_path, **options)
    whole = next(line for line in lines_of(finished) if line["seed"] == 1 and line["variant"] == "base")
    assert resumed["resumed"] and resumed["metrics"]["tasks"] == whole["metrics"]["tasks"]
    assert resumed["metrics"]["epochs"] == 2
    assert not list((tmp_path / "checkpoints").iterdir())


def test_validation_is_the_last_fifth_of_the_training_part(tiny_data):
    settings = Settings(max_rows=100).__dict__
    part = load("digits", settings, tiny_data)
    assert [len(split) for split in part.splits().values()] == [80, 20, 50]
    assert torch.equal(part.validation.y, (torch.arange(80, 100) % 10))


def test_the_table_shows_the_lines_and_nothing_else(finished):
    experiment = load_experiment("exp3")
    lines = lines_of(finished)
    (main,) = [table for table in tables(experiment, lines) if table.title == "Results"]
    base = [line["metrics"]["tasks"]["digits"]["accuracy"] * 100 for line in lines if line["variant"] == "base"]
    cell = main.rows[0][1]
    assert cell == f"{sum(base) / 2:.2f} ({min(base):.2f} to {max(base):.2f})"
    control = next(row for row in main.rows if row[0].startswith("dense control"))
    fashion = [line["metrics"]["tasks"]["fashion"]["accuracy"] * 100 for line in lines if line["stage"] == "fashion"]
    assert control[2] == f"{sum(fashion) / 2:.2f} ({min(fashion):.2f} to {max(fashion):.2f})"
    assert control[3] == "2" and control[4] == f"{2 * (784 * 64 + 64 * 48 + 480):,}"
    assert main.rows[-2][:3] == ("paper", "97", "86") and main.rows[-1][:3] == ("paper, dense control", "97", "88")


def test_smoke_runs_are_marked_and_not_judged(finished):
    text = as_markdown(load_experiment("exp3"), lines_of(finished))
    assert "shows nothing about accuracy" in text and "Expected and reached" not in text


def as_full_run(lines: list[dict], accuracy: float) -> list[dict]:
    """The same lines as if they were of full runs, with made-up accuracies that differ by seed."""
    changed = json.loads(json.dumps(lines))
    for line in changed:
        line["settings"]["smoke"] = False
        for metrics in line["metrics"]["tasks"].values():
            metrics["accuracy"] = accuracy + 0.01 * line["seed"]
    return changed


def test_expected_figures_are_judged_by_the_mean(finished):
    verdicts = {}
    for accuracy in (0.9649, 0.97):
        found = [
            t
            for t in tables(load_experiment("exp3"), as_full_run(lines_of(finished), accuracy))
            if t.title == "Expected and reached"
        ]
        verdicts[accuracy] = {(row[0], row[1]): row[-1] for row in found[0].rows}
    label = load_experiment("exp3").variants["base"].title
    assert verdicts[0.9649][label, "Digits, %"] == "missed by 0.01" and verdicts[0.97][label, "Digits, %"] == "reached"
    assert verdicts[0.9649][label, "Fashion, %"] == "reached"
    assert len(verdicts[0.97]) == 4


def test_other_settings_get_a_row_of_their_own(finished):
    lines = lines_of(finished)
    changed = json.loads(json.dumps(lines[:1]))
    changed[0]["settings_hash"] = "0123456789ab"
    (main,) = [table for table in tables(load_experiment("exp3"), lines + changed) if table.title == "Results"]
    assert sum("[0123456789ab]" in row[0] for row in main.rows) == 1


def test_f1_per_class_is_the_mean_over_seeds(finished):
    lines = lines_of(finished)
    (table,) = [table for table in tables(load_experiment("exp3"), lines) if table.title.startswith("digits")]
    per_seed = [line["metrics"]["tasks"]["digits"]["f1"] for line in lines if line["variant"] == "base"]
    assert [row[1] for row in table.rows] == [f"{(a + b) / 2:.3f}" for a, b in zip(*per_seed, strict=True)]
    assert table.rows[2][-2] == "0.98" and len(table.rows) == 10


def test_report_of_a_folder(finished, tmp_path):
    folder = tmp_path / "all" / "exp3"
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_bytes((finished / "results.jsonl").read_bytes())
    markdown, html = write_report(tmp_path)
    assert markdown.read_text() == as_markdown(load_experiment("exp3"), lines_of(finished))
    page = html.read_text()
    for table in tables(load_experiment("exp3"), lines_of(finished)):
        assert all(cell.replace("'", "&#x27;") in page for row in table.rows for cell in row)
    assert not re.search(r"https?://|<script|<link", page)


def test_report_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="must hold results.jsonl"):
        write_report(tmp_path)
    (tmp_path / "results.jsonl").write_text(
        json.dumps(
            {
                "experiment": "exp99",
                "variant": "",
                "seed": 0,
                "stage": "",
                "settings": {},
                "settings_hash": "",
                "metrics": {},
            }
        )
        + "\n"
    )
    with pytest.raises(ValueError, match="results must be of exp3, got exp99"):
        write_report(tmp_path)


@pytest.mark.skipif(not os.environ.get("RSN2_DATA"), reason="RSN2_DATA is not set: no real MNIST and Fashion-MNIST")
def test_smoke_on_the_real_data(tmp_path):
    lines = run(load_experiment("exp3"), tmp_path, seeds=[0], smoke=True, progress=False, say=lambda line: None)
    assert len(lines) == 4
    controls = [line["metrics"]["tasks"][line["stage"]]["accuracy"] for line in lines if line["variant"] == "control"]
    assert min(controls) > 0.3  # ten classes; two epochs on 800 images reach about 0.6
