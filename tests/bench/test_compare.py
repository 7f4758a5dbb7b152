"""Arithmetic and exit status of the comparison of two runs."""

from __future__ import annotations

import json

import pytest

from bench import compare


def line(name, **fields):
    return {"name": name, "threads": 2, "cpu_level": "avx512", "goals": [], **fields}


def dense(name, ratio, **fields):
    return line(name, ratio={"F.linear": 2 * ratio}, ratio_best_dense=ratio, **fields)


@pytest.fixture
def compared(tmp_path, capsys):
    def run(before, after, *options):
        paths = []
        for name, lines in (("a", before), ("b", after)):
            paths.append(tmp_path / f"{name}.jsonl")
            paths[-1].write_text("".join(json.dumps(item) + "\n" for item in lines))
        status = compare.main([*map(str, paths), *options])
        return status, capsys.readouterr().out

    return run


def test_slower_and_faster(compared):
    before = [dense("same", 4.0), dense("slower", 4.0), dense("faster", 2.0)]
    after = [dense("same", 3.8), dense("slower", 2.0), dense("faster", 5.0)]
    status, output = compared(before, after)
    assert status == 1
    assert "2.00x slower: slower" in output and "2.50x faster: faster" in output and ": same" not in output
    assert "3 points compared, 1 slower and 1 faster" in output


def test_threshold(compared):
    before, after = [dense("point", 4.0)], [dense("point", 3.0)]
    assert compared(before, after, "--threshold", "1.4")[0] == 0
    assert compared(before, after, "--threshold", "1.3")[0] == 1
    assert compared(after, before)[0] == 0


def test_points_without_dense_are_compared_by_their_goal(compared):
    def scaling(ratio):
        goals = [{"against": "ours, half"}]
        return line("twice", ratio={"ours, other": 9.0, "ours, half": ratio}, ratio_best_dense=None, goals=goals)

    status, output = compared([scaling(0.5)], [scaling(0.25)])
    assert status == 1 and "2.00x slower" in output and "of ours, half" in output


def test_threads_and_level_tell_lines_apart(compared):
    status, output = compared([dense("point", 4.0)], [dense("point", 1.0) | {"threads": 1}])
    assert status == 2 and "no timed point in common" in output


def test_a_result_that_became_wrong(compared):
    after = [dense("good", 4.0), line("bad", wrong={"ours": "why"})]
    status, output = compared([dense("good", 4.0), dense("bad", 4.0)], after)
    assert status == 1 and "WRONG now: bad" in output


def test_missing_points_are_counted(compared):
    output = compared([dense("a", 1.0), dense("b", 1.0)], [dense("a", 1.0)])[1]
    assert "1 only in" in output and "0 only in" in output


@pytest.mark.parametrize("text", ["no json", "[]", '{"name": "x"}'])
def test_other_files_are_refused(tmp_path, text, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(SystemExit) as error:
        compare.main([str(path), str(path)])
    assert error.value.code == 2 and "a.jsonl:1 is no line of bench.run" in capsys.readouterr().err
