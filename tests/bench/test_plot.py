"""Which points go into which plot."""

from __future__ import annotations

import json

import pytest

from bench import plot


def line(density=0.1, rows=512, slots=1, shape="1000x1000", **fields):
    ratio = {"F.linear": 8.0, "onnxruntime": 4.0, "torch CSR": 3.0}
    found = {"name": f"{shape} {rows} {density} {slots}", "what": "forward", "shape": shape, "rows": rows}
    found |= {"density": density, "slots": slots, "dtype": "float32", "threads": 2, "cpu_level": "avx512"}
    return found | {"ratio": ratio, "ratio_best_dense": 4.0, **fields}


def write(path, lines):
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    return path


def test_series():
    lines = [line(0.2), line(0.1), line(0.1, rows=64), line(0.1, dtype="bfloat16"), line(0.1, shape="7x7")]
    found = plot.series(lines, plot.FIGURES[0].panels[0], "density")
    assert found[plot.BEST] == [(0.1, 4.0), (0.2, 4.0)] and found["torch CSR"] == [(0.1, 3.0), (0.2, 3.0)]
    assert "onnxruntime" not in found


def test_files(tmp_path, capsys):
    lines = [line(0.1), line(0.2), line(0.05), line(0.05, slots=4)]
    path = write(tmp_path / "a.jsonl", lines)
    assert plot.main([str(path), "--out", str(tmp_path / "out")]) == 0
    assert {found.name for found in (tmp_path / "out").iterdir()} == {"speed_density.svg", "speed_tasks.svg"}
    first = (tmp_path / "out" / "speed_density.svg").read_bytes()
    assert "speed_rows: too few points" in capsys.readouterr().out
    plot.main([str(path), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "speed_density.svg").read_bytes() == first  # the same lines, the same file


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "no timed point"),
        ([{"op": "task_linear"}], "no line of bench.run"),
        ([line(0.1), line(0.2, threads=1)], "different numbers of threads"),
    ],
)
def test_what_cannot_be_drawn(tmp_path, capsys, lines, words):
    with pytest.raises(SystemExit):
        plot.main([str(write(tmp_path / "a.jsonl", lines)), "--out", str(tmp_path)])
    assert words in capsys.readouterr().err
