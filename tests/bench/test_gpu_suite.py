"""The suite for a GPU, dry: every stage runs on the CPU, goes on where it stopped, and tells what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.gpu import bench, check, goals, summary, values
from bench.gpu.device import StandIn
from bench.gpu.linear import forward
from bench.gpu.lines import DeviceIsLost, Lines, TimeIsUp, read
from bench.gpu.mixed import mixed
from bench.gpu.points import Case, Point, Scene, measure
from bench.gpu.problems import OPERATORS, Problem, answers, judge
from bench.gpu.timing import DRY, Way, copies, time_way

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bench" / "gpu_suite.sh"


def suite(*arguments: str, python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PYTHON": python, **environment}
    for name in ("TORCH_CUDA_ARCH_LIST", "PYTHONPATH"):  # the script finds both packages itself
        given.pop(name, None)
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, env=given, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all stages leave."""
    folder = tmp_path_factory.mktemp("gpu")
    run = suite("all", "--dry", "--out", str(folder))
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return Lines(tmp_path / "lines.jsonl", StandIn(), 1000)


@pytest.fixture
def scene() -> Scene:
    return bench.open_scene(dry=True, seed=3)


def fails() -> dict[str, object]:
    raise RuntimeError("no such kernel\nand more")


def test_build_says_what_is_here(folder):
    assert "cuda" in (folder / "backends.txt").read_text()
    assert json.loads((folder / "facts.json").read_text())["torch"] == torch.__version__


def test_every_check_and_every_block_ran(folder):
    tests = read(folder / "test.jsonl")
    assert {line["status"] for line in tests} == {"ok", "absent"}
    assert len({line["seed"] for line in tests}) == 1
    groups = {line["group"] for line in tests}
    assert {"shapes", "conv_shapes", "graphs", "streams", "no_waiting", "compiled", "many", "far_offsets"} <= groups
    points = read(folder / "bench.jsonl")
    assert {line["block"] for line in points} == set(bench.BLOCKS)
    assert all(line["status"] == "ok" and line["dry"] for line in points)


def test_the_tests_of_the_suite_ran(folder):
    parts = dict(line.split(" ", 1) for line in (folder / "parts.txt").read_text().splitlines())
    assert parts["pytest-dry"].startswith("ok")


def test_every_folder_of_operators_and_layers_is_tested_on_a_gpu(tmp_path):
    """With a stand-in for Python, which lists what pytest is asked for."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *"-m pytest"*) echo "$*" >>"{tmp_path}/calls";; *backends*) echo cuda;; esac\n'
    )
    python.chmod(0o755)
    assert suite("test", "--out", str(tmp_path / "out"), python=str(python)).returncode == 0
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    asked = [Path(word) for call in calls for word in call if word.startswith("tests/")]
    assert all("--device cuda" in " ".join(call) for call in calls)
    assert all((ROOT / path).exists() for path in asked)
    for folder in ("ops", "autograd", "formats", "nn", "device"):
        for file in (ROOT / "tests" / "rsn2_kernels" / folder).glob("test_*.py"):
            place = file.relative_to(ROOT)
            assert [path for path in asked if path in (place, *place.parents)], place


def test_gates_give_verdicts(folder):
    verdicts = [text for line in read(folder / "gates.jsonl") for text in line.get("verdicts", [])]
    assert {text[:2] for text in verdicts} == {"G0", "G1", "G2", "G3"}
    assert not any("FAIL" in text for text in verdicts)


def test_the_summary_fits_on_a_screen_and_comes_last(folder):
    text = (folder / "summary.txt").read_text().splitlines()
    assert len(text) <= summary.MOST_LINES
    assert text == summary.text(folder)
    assert "no figure means anything" in text[-1]


def test_a_finished_stage_is_not_run_again(folder):
    before = (folder / "gates.jsonl").read_bytes()
    run = suite("gates", "--dry", "--out", str(folder))
    assert run.returncode == 0 and "gates: done before" in run.stdout
    assert (folder / "gates.jsonl").read_bytes() == before


@pytest.mark.parametrize("arguments", [(), ("speed", "--out", "x"), ("test",), ("test", "--out", "x", "--fast")])
def test_wrong_arguments_are_explained(arguments):
    run = suite(*arguments)
    assert run.returncode == 2 and "gpu_suite.sh STAGE --out DIR" in run.stdout


@pytest.mark.parametrize(("code", "status", "calls"), [(0, 0, 1), (1, 1, 1), (75, 75, 1), (76, 1, 6)])
def test_what_a_part_ends_with(tmp_path, code, status, calls):
    """A stand-in for Python that counts how often the gates are started."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *gates*) echo once >>"{tmp_path}/calls"; exit {code};; esac\n')
    python.chmod(0o755)
    assert suite("gates", "--out", str(tmp_path / "out"), python=str(python)).returncode == status
    assert len((tmp_path / "calls").read_text().split()) == calls
    is_done = "gates ok" in (tmp_path / "out" / "parts.txt").read_text()
    assert is_done == (code == 0)


def test_nothing_begins_without_time(tmp_path):
    run = suite("gates", "--dry", "--out", str(tmp_path), LIMIT="1")
    assert run.returncode == 75 and "gates no time left" in (tmp_path / "parts.txt").read_text()


def test_a_line_is_written_once(lines):
    first = lines.run("a", lambda: {"figure": 1})
    assert Lines(lines.path, lines.device, 1000).run("a", fails) == first


def test_errors_are_lines_and_can_be_tried_again(lines):
    line = lines.run("a", fails, stage="test")
    assert line["status"] == "failed" and line["why"] == "RuntimeError: no such kernel | and more"
    assert Lines(lines.path, lines.device, 1000).run("a", dict)["status"] == "failed"
    assert Lines(lines.path, lines.device, 1000, retry=True).run("a", dict)["status"] == "ok"


def test_what_ended_the_process_is_not_tried_again(lines):
    lines.write({"name": "a", "status": "started"})
    again = Lines(lines.path, lines.device, 1000)
    assert again.run("a", dict)["status"] == "lost"
    assert again.run("b", dict)["status"] == "ok"


def test_work_that_is_asked_to_end_is_begun_anew(tmp_path):
    """What ``timeout`` sends is no fault of what ran then, unless it does not answer."""
    code = (
        "import os, signal, sys, time; from pathlib import Path; from bench.gpu.device import StandIn\n"
        "from bench.gpu.lines import Lines, TimeIsUp, end_when_asked\n"
        "def work():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
        "    except Exception: pass\n"
        "end_when_asked(); lines = Lines(Path(sys.argv[1]), StandIn(), 60)\n"
        "try: lines.run('a', work)\n"
        "except TimeIsUp: sys.exit(75)"
    )
    path = tmp_path / "lines.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code, str(path)], env=environment).returncode == 75
    assert read(path) == []
    twice = tmp_path / "twice.jsonl"
    twice.write_text(path.read_text())
    assert Lines(path, StandIn(), 60).run("a", dict)["status"] == "ok"
    assert [line["status"] for line in read(path)] == ["ok"]
    subprocess.run([sys.executable, "-c", code, str(twice)], env=environment)
    assert [line["status"] for line in read(twice)] == ["lost"]  # it takes longer than a process has


def test_time_and_device_end_a_run(lines, monkeypatch):
    with pytest.raises(TimeIsUp):
        Lines(lines.path, lines.device, -1).run("a", dict)
    monkeypatch.setattr(StandIn, "is_alive", lambda self: False)
    with pytest.raises(DeviceIsLost):
        lines.run("a", fails)
    assert lines.found["a"]["status"] == "failed"


@pytest.mark.parametrize("result", ["forward", "grad_input", "grad_values"])
def test_a_wrong_element_fails_its_check(result):
    problem = values.linear(values.Setting(StandIn(), 0, dry=True), "a problem", (9, 40, 17, 2))
    plain, exact = answers(problem, result, torch.device("cpu"))
    judge(result, plain.clone(), plain, exact)
    for wrong in (float("nan"), 1e-3):
        ours = plain.clone()
        ours.view(-1)[3] += wrong
        with pytest.raises(AssertionError):
            judge(result, ours, plain, exact)


def test_a_failed_check_fails_the_stage(tmp_path, monkeypatch):
    right = Problem.grad_values

    def wrong(problem: Problem, where: object = OPERATORS) -> torch.Tensor:
        return right(problem, where) * (2 if where is OPERATORS else 1)

    monkeypatch.setattr(Problem, "grad_values", wrong)
    monkeypatch.setenv("RSN2_BACKEND", os.environ.get("RSN2_BACKEND", ""))  # put back afterwards
    out = tmp_path / "test.jsonl"
    arguments = ["--backend", "reference", "--out", str(out), "--seed", "1", "--dry", "--tiny", "--groups", "shapes"]
    assert check.main(arguments) == 1
    failed = [line for line in read(out) if line["status"] == "failed"]
    assert len(failed) == 4 and all(line["name"].endswith("grad_values") for line in failed)


def test_a_wrong_result_is_not_timed(scene):
    point = forward(scene, "C", "4096x4096", 0.1, 4, others=("F.linear",))
    case = point.make()
    assert case.ours is not None
    wrong = replace(case.ours, pick=lambda y: y * 1.1)
    with pytest.raises(AssertionError, match="relative error"):
        measure(scene, replace(point, make=lambda: replace(case, ours=wrong)))


def test_others_that_are_wrong_or_absent_are_named(scene):
    x = torch.ones(3)
    others = {"wrong": lambda: Way([lambda: 2 * x]), "absent": lambda: "not here", "fails": lambda: Way([fails])}
    point = Point("Z", {"what": "nothing"}, lambda: Case(Way([lambda: 1 * x]), others, x.double))
    line = measure(scene, point)
    assert (
        set(line["wrong"]) == {"wrong"}
        and set(line["absent"]) == {"absent", "fails"}
        and set(line["times"]) == {"ours"}
    )


def test_mixed_batches_are_proved_in_both_directions(scene):
    for what in ("forward", "forward+backward"):
        line = measure(scene, mixed(scene, "4096x4096", 8, 0.1, "zipf", 64, what=what))
        assert line["error"]["ours"] < 1e-2 and not line["wrong"]


def test_copies_fill_the_cache_and_are_other_memory():
    tensor = torch.zeros(100)
    sets = copies([tensor], 1000)
    assert len(sets) == 3 and len({own[0].data_ptr() for own in sets}) == 3
    assert len(copies([tensor], 10**9, most=5)) == 5


def test_calls_are_timed_in_turn():
    called = []
    timing = time_way(StandIn(), Way([lambda: called.append(0), lambda: called.append(1)]), DRY)
    assert called[2:] == [0, 1] * ((len(called) - 2) // 2) and timing["calls"] == 2 and timing["how"] == "graph"


def test_every_goal_belongs_to_a_point(scene):
    points = [point for block in bench.BLOCKS.values() for point in block(scene)]
    assert len({point.name for point in points}) == len(points)
    judged = [(point.block, goal.must) for point in points for goal in point.goals]
    for block, bars in (("C", goals.FEW), ("C", goals.SIXTEEN), ("C'", goals.FLOAT32), ("F", goals.BLOCKS)):
        assert {must for must, _ in bars.values()} <= {must for found, must in judged if found == block}
    assert sum(block == "E" for block, _ in judged) == 3 and sum(block == "G" for block, _ in judged) == len(goals.CONV)


def test_what_the_sanitizer_ends_with(tmp_path):
    """A tool that cannot run here is absent, one that is too slow can go on; each is judged by its own words."""
    said = {"memcheck": "exit 0", "racecheck": "echo Device not supported; exit 1", "synccheck": "exit 124"}
    cases = " ".join(f"*{tool}*) {what};;" for tool, what in said.items())
    for name, body in (("python3", "exit 0"), ("compute-sanitizer", f'case "$*" in {cases} esac; exit 1')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    (out / "backends.txt").write_text("cuda       present  here\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert suite("sanitize", "--out", str(out), python="python3", PATH=path).returncode == 1
    parts = dict(line.split(" ", 1) for line in (out / "parts.txt").read_text().splitlines())
    found = {
        tool: parts[f"sanitize-cuda-{tool}"].split()[0] for tool in ("memcheck", "racecheck", "synccheck", "initcheck")
    }
    assert found == {"memcheck": "ok", "racecheck": "absent:", "synccheck": "time", "initcheck": "FAILED"}
