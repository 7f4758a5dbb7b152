"""Proof before time: what the runner refuses, what it reports, and the fields of its lines."""

from __future__ import annotations

import json
import time

import pytest
import torch

from bench import proof, run
from bench.measure import QUICK, Pace, judge, measure, prove, spread, undisturbed, with_threads
from bench.registry import BEST_DENSE, Alternative, Case, Count, Goal, Point
from rsn2.metrics import Timing

SHORT = Pace(0.001, block=1, least=1, most=1, attempts=1)
X = torch.tensor([1.0, 2.0])


def alternative(result, exact=X, calls=None):
    def call():
        if calls is not None:
            calls.append(result)
        return result

    return proof.other(call, [exact.double()])


def point(ours=X, others=(), goals=(), dense=("dense",), **settings) -> Point:
    mine = proof.ours(lambda: ours, [X], [X.double()])
    makers = {name: (lambda made=made: made) for name, made in dict(others).items()}
    return Point("op", "forward", {"rows": 2}, lambda: Case(mine, makers), dense, tuple(goals), **settings)


def test_a_right_result_is_timed():
    line = measure(point(others={"dense": alternative(X)}, goals=[Goal(BEST_DENSE, 1e-9, 1e9)]), SHORT)
    assert line["wrong"] == {} and line["absent"] == {}
    assert set(line["ours_ms"]) == set(line["others_ms"]["dense"]) == {"median", "least", "p20", "p80", "calls"}
    assert line["best_dense"] == "dense"
    ratio = line["others_ms"]["dense"]["median"] / line["ours_ms"]["median"]
    assert line["ratio"] == {"dense": ratio} and line["ratio_best_dense"] == ratio
    assert [goal["verdict"] for goal in line["goals"]] == ["pass"]


@pytest.mark.parametrize("wrong", [X + 1, X[:1], X.double(), X * float("nan")], ids=["value", "shape", "dtype", "nan"])
def test_a_wrong_result_of_ours_is_not_timed(wrong):
    calls = []
    line = measure(point(wrong, others={"dense": alternative(X, calls=calls)}), SHORT)
    assert "ours" in line["wrong"] and "ours_ms" not in line and calls == []


@pytest.mark.parametrize("wrong", [X + 1, X[:1], X * float("nan")], ids=["value", "shape", "nan"])
def test_a_wrong_result_of_others_is_reported_and_not_timed(wrong):
    calls = []
    found = point(others={"dense": alternative(X), "sparse": alternative(wrong, calls=calls)})
    line = measure(found, SHORT)
    assert list(line["wrong"]) == ["sparse"] and list(line["others_ms"]) == ["dense"] and len(calls) == 1


def test_rounding_of_others_is_not_wrong():
    assert prove(point(others={"dense": alternative(X * 1.005)})).wrong == {}


def test_what_is_absent_says_why():
    line = measure(point(others={"dense": "it is not installed"}, goals=[Goal("dense", 1, 2)]), SHORT)
    assert line["absent"] == {"dense": "it is not installed"}
    assert line["best_dense"] is None and line["ratio_best_dense"] is None
    assert line["goals"][0]["verdict"] == "absent" and line["goals"][0]["figure"] is None


def test_what_is_left_out_is_absent():
    ready = prove(point(others={"masked dense": alternative(X)}), QUICK.leave_out)
    assert list(ready.calls) == ["ours"] and "left out" in ready.absent["masked dense"]


def test_an_error_that_is_no_wrong_result_is_seen():
    def fail():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        prove(point(others={"dense": Alternative(fail, fail)}))


def test_the_fastest_dense_one_is_the_best():
    def slow():
        time.sleep(0.01)
        return X

    slow_one = proof.other(slow, [X.double()])
    others = {"slow": slow_one, "fast": alternative(X), "sparse": alternative(X)}
    line = measure(point(others=others, dense=("slow", "fast")), SHORT)
    assert line["best_dense"] == "fast"


def test_threads_are_those_of_the_point_and_restored(set_num_threads):
    set_num_threads(2)
    seen = []
    ours = Alternative(lambda: seen.append(torch.get_num_threads()), lambda: None)
    line = measure(Point("op", "forward", {}, lambda: Case(ours, {}), threads=1), SHORT)
    assert set(seen) == {1} and line["threads"] == 1 and torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), with_threads(1):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("goal", "ours", "other", "figure", "verdict"),
    [
        (Goal("other", 2, 3), 1.0, 3.0, 3.0, "reach"),
        (Goal("other", 2, 3), 1.0, 2.0, 2.0, "pass"),
        (Goal("other", 2, 3), 1.0, 1.9, 1.9, "MISS"),
        (Goal("other", 2.1, 2.0, at_most=True), 2.0, 1.0, 2.0, "reach"),
        (Goal("other", 2.1, 2.0, at_most=True), 2.1, 1.0, 2.1, "pass"),
        (Goal("other", 2.1, 2.0, at_most=True), 2.2, 1.0, 2.2, "MISS"),
        (Goal("other", 1.3, 1.0, at_most=True, work=2.0), 2.4, 1.0, 1.2, "pass"),
    ],
)
def test_goals(goal, ours, other, figure, verdict):
    entry = judge(goal, ours, {"other": other})
    assert entry["figure"] == pytest.approx(figure) and entry["verdict"] == verdict


def test_the_calmest_attempt_counts(monkeypatch):
    disturbed, calm = Timing((1.0, 8.0, 8.0, 8.0)), Timing((1.5, 1.6, 1.7, 1.8))
    assert spread({"ours": calm, "dense": disturbed}) == 8.0 and spread({"ours": calm}) == pytest.approx(1.2)
    attempts = iter([disturbed, calm, disturbed])
    monkeypatch.setattr("bench.measure.in_turns", lambda calls, pace: {"ours": next(attempts)})
    assert undisturbed({}, SHORT._replace(attempts=3)) == ({"ours": calm}, 2)
    attempts = iter([disturbed])
    assert undisturbed({}, SHORT) == ({"ours": disturbed}, 1)


def test_counts_are_judged_and_not_timed():
    counted = Count("op", "bytes", {"density": 0.1}, lambda: {"own_bytes": 12, "figure": 0.12},
                    (Goal("dense bytes", 0.15, 0.11, at_most=True),))  # fmt: skip
    line = measure(counted, SHORT)
    assert line["own_bytes"] == 12 and line["goals"][0]["verdict"] == "pass" and "ours_ms" not in line


def test_names_tell_points_apart():
    names = {point(**settings).name for settings in ({}, {"dtype": "bfloat16"}, {"threads": 1})}
    assert len(names) == 3


class TestRun:
    @pytest.fixture
    def found(self, monkeypatch):
        """What `points` returns."""
        held: list = []
        monkeypatch.setattr(run, "points", lambda suite: iter(held))
        return held

    def test_lines(self, found, tmp_path, capsys):
        found += [
            point(others={"dense": alternative(X)}, goals=[Goal("dense", 1e9, 1e9)], quick=True),
            point(others={"dense": alternative(X)}, dtype="bfloat16"),
        ]
        path = tmp_path / "new" / "lines.jsonl"
        assert run.main(["--quick", "--out", str(path)]) == 0
        (line,) = map(json.loads, path.read_text().splitlines())  # the other point is not for --quick
        wanted = {"name", "suite", "op", "what", "rows", "dtype", "threads", "cpu_level", "torch", "onnxruntime",
                  "deepsparse", "sparseprop", "commit", "clean", "ours_ms", "others_ms", "ratio", "goals"}  # fmt: skip
        assert wanted <= line.keys()
        output = capsys.readouterr().out
        assert "MISS" in output and "1 are missed" in output

    def test_a_wrong_result_is_the_exit_status(self, found, capsys):
        found.append(point(X + 1))
        assert run.main([]) == 1
        assert "WRONG" in capsys.readouterr().out

    def test_absent_data_is_one_line(self, monkeypatch, capsys):
        monkeypatch.delenv("RSN2_DATA", raising=False)
        with pytest.raises(SystemExit) as error:
            run.main(["--suite", "e2e", "--quick", "--filter", "experiment 3"])
        assert error.value.code == 2 and "RSN2_DATA" in capsys.readouterr().err.splitlines()[-1]

    def test_nothing_found_is_the_exit_status(self, found):
        found.append(point())
        assert run.main(["--filter", "no such point"]) == 1
