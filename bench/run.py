"""Prove, then time: `python -m bench.run --suite cpu [--quick] [--filter TEXT] [--out FILE.jsonl]`."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import rsn2_kernels
from bench.registry import Point, points
from rsn2.metrics import Timing, time_in_turns


def machine() -> dict[str, Any]:
    """Versions and settings that every line carries."""
    run = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    try:
        from rsn2_kernels import _C

        level = _C.cpu_level()
    except ModuleNotFoundError:
        level = "reference"
    return {
        "rsn2_kernels": rsn2_kernels.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": run.stdout.strip() or "unknown",
        "threads": torch.get_num_threads(),
        "cpu_level": level,
        "dtype": "float32",
    }


BLOCK = 5
REST_SECONDS = 0.03


def in_turns(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """Time all calls, for about `seconds` each on average and in at least five blocks of five."""
    trial = time_in_turns(calls, repeats=1, rest_seconds=REST_SECONDS)
    round_ms = sum(timing.median_ms() for timing in trial.values()) * (BLOCK + 1)
    repeats = max(5, round(1000 * seconds * len(calls) / round_ms))
    return time_in_turns(calls, repeats=min(repeats, 40), block=BLOCK, rest_seconds=REST_SECONDS)


def summary(timing: Timing) -> dict[str, float]:
    return {
        "median": timing.median_ms(),
        "p20": timing.quantile_ms(0.2),
        "p80": timing.quantile_ms(0.8),
        "calls": len(timing.samples_ms),
    }


def measure(point: Point, seconds: float) -> dict[str, Any]:
    """Check the results of a point, time it, and return its line."""
    case = point.prepare()
    case.check()
    calls = {name: call for name, call in case.baselines.items() if callable(call)}
    timings = in_turns({"ours": case.ours, **calls}, seconds)
    median = {name: timing.median_ms() for name, timing in timings.items()}
    best = min((name for name in point.dense if name in median), key=lambda name: median[name])
    return {
        "op": point.op,
        "what": point.what,
        **point.settings,
        "ours_ms": summary(timings["ours"]),
        "baselines_ms": {name: summary(timings[name]) for name in calls},
        "absent": {name: why for name, why in case.baselines.items() if isinstance(why, str)},
        "best_dense": best,
        "ratio": {name: median[name] / median["ours"] for name in calls},
        "ratio_best_dense": median[best] / median["ours"],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--suite", default="cpu", choices=["cpu"])
    parser.add_argument("--quick", action="store_true", help="shorter timing, for a look")
    parser.add_argument("--filter", default="", help="only points whose name contains this")
    parser.add_argument("--out", type=Path, help="append a JSON line per point")
    arguments = parser.parse_args(argv)
    facts = machine()
    print(" ".join(f"{key}={value}" for key, value in facts.items()))
    print(f"{'point':88} {'ours ms':>8} {'p20':>7} {'p80':>7} {'dense ms':>9} {'ratio':>6}  best dense; others")
    for point in points(arguments.suite):
        if arguments.filter not in point.name:
            continue
        line = measure(point, seconds=0.3 if arguments.quick else 2.0)
        own = line["ours_ms"]
        dense_ms = line["baselines_ms"][line["best_dense"]]["median"]
        others = ", ".join(
            f"{name} {ratio:.2f}x" for name, ratio in line["ratio"].items() if name != line["best_dense"]
        )
        print(
            f"{point.name:88} {own['median']:8.3f} {own['p20']:7.3f} {own['p80']:7.3f} {dense_ms:9.3f} "
            f"{line['ratio_best_dense']:6.2f}  {line['best_dense']}; {others}",
            flush=True,
        )
        if arguments.out:
            with open(arguments.out, "a") as file:
                file.write(json.dumps({**line, **facts}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
