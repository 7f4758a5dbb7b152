"""The gates that decide the design: `python -m bench.gpu.gates --out FILE.jsonl [--dry]`.

G0: few rows are as fast as memory allows. G1: against cuBLAS on 14336 x 4096. G2: gradients are right. G3: a mixed
batch takes at most 1.1 times as long as its tasks one by one. Each prints its verdict.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from . import bench, ceilings, goals, linear, mixed, values
from .device import query
from .lines import DEVICE_IS_LOST, TIME_IS_UP, DeviceIsLost, Lines, TimeIsUp, end_when_asked
from .points import OURS, Points, Scene

POSITIONS = 8192 * 8192


def decode_rate(lines: Lines, scene: Scene) -> list[str]:
    """G0: bytes per second of values and index at one row, positions per clock and multiprocessor at all."""
    clock = None if scene.dry else float(query("clocks.max.sm") or 0)

    def points() -> Points:
        yield ceilings.copy(scene)
        for density in linear.DENSITIES:
            for rows in (1, 16):
                yield linear.forward(scene, "B", "8192x8192", density, rows)

    found = measured(lines, scene, points())
    top = found[0]
    if top["status"] != "ok" or "this" not in top.get("times", {}):
        return [f"G0 FAIL: no copy to compare with: {top.get('why', top.get('absent'))}"]
    bandwidth = 1e-3 * top["bytes"] / top["times"]["this"]["us"]
    texts = [f"G0: a copy moves {bandwidth:.0f} GB/s, read and written"]
    for line in found[1:]:
        settings = line["settings"]
        words = f"G0 {{}} density {settings['density']}, {settings['rows']} rows: "
        if line["status"] != "ok":
            texts.append(words.format("FAIL") + line["why"])
            continue
        share = line["gb_per_s"] / bandwidth
        verdict = "said" if settings["rows"] > 1 else "pass" if share >= goals.HBM_SHARE else "MISS"
        own = line["times"][OURS]["us"]
        rate = (
            f", {POSITIONS / (own * clock * scene.device.num_multiprocessors):.1f} positions/clock/SM" if clock else ""
        )
        texts.append(f"{words.format(verdict)}{own:.1f} us, {100 * share:.0f} % of the copy's bandwidth{rate}")
    return texts


def against_dense(lines: Lines, scene: Scene) -> list[str]:
    """G1: forward at 1, 4, 16 and 64 rows against ``F.linear``, bfloat16, cold."""

    def points() -> Points:
        for density in linear.DENSITIES:
            for rows in (1, 4, 16, 64):
                yield linear.forward(scene, "C", "14336x4096", density, rows, others=("F.linear",))

    texts = []
    for line in measured(lines, scene, points()):
        settings = line["settings"]
        words = f"G1 {{}} density {settings['density']}, {settings['rows']} rows: "
        if line["status"] != "ok":
            texts.append(words.format("FAIL") + line["why"])
            continue
        for goal in line["goals"]:
            if goal["against"] == "F.linear":
                figure = "-" if goal["figure"] is None else f"{goal['figure']:.2f}x"
                text = f"{figure} of F.linear, at least {goal['must']:g}x ({goal['reach']:g}x)"
                texts.append(words.format(goal["verdict"]) + f"{line['times'][OURS]['us']:.1f} us, {text}")
    return texts


def gradients(lines: Lines, scene: Scene) -> list[str]:
    """G2: gradients against float64, of small shapes that divide nothing and of a large layer."""
    setting = values.Setting(scene.device, scene.seed, dry=scene.dry)
    size, found = setting.size, []
    for dtype in (torch.float32, torch.bfloat16):
        small = values.checks(setting, f"G2 small {dtype}",
                              lambda name, dtype=dtype: values.linear(setting, name, (130, 613, 97, 4), dtype),
                              ("grad_input", "grad_values"))  # fmt: skip
        shape = (size(300, 20), size(4096, 300), size(4096, 40), 4)
        wide = values.checks(setting, f"G2 large {dtype}",
                             lambda name, dtype=dtype, shape=shape: values.large(setting, name, shape, 0.1, dtype),
                             ("grad_input", "grad_values"), oracle="device")  # fmt: skip
        for name, work in (*small, *wide):
            found.append(lines.run(name, work, stage="gates", device=scene.device.name, dry=scene.dry))
    return [f"{line['name'][:2]} {'pass' if line['status'] == 'ok' else 'FAIL'}{line['name'][2:]}"
            f"{'' if line['status'] == 'ok' else ': ' + line['why']}" for line in found]  # fmt: skip


def scheduling(lines: Lines, scene: Scene) -> list[str]:
    """G3: a mixed batch against ours, task by task."""

    def points() -> Points:
        for slots, density, rows in ((8, 0.1, 64), (8, 0.1, 1024), (16, 0.05, 1024)):
            yield mixed.mixed(scene, "4096x4096", slots, density, "uniform", rows, singles=True)

    texts = []
    for line in measured(lines, scene, points()):
        settings = line["settings"]
        words = f"G3 {{}} {settings['slots']} slots, {settings['rows']} rows: "
        ratio = line.get("ratio", {}).get("ours, task by task")
        if line["status"] != "ok" or ratio is None:
            texts.append(
                words.format("FAIL") + str(line.get("why", {**line.get("absent", {}), **line.get("wrong", {})}))
            )
            continue
        verdict = "pass" if 1 / ratio <= goals.MIXED_OVER_SINGLE else "MISS"
        texts.append(words.format(verdict) + f"{1 / ratio:.2f} times the sum of the tasks one by one")
    return texts


def measured(lines: Lines, scene: Scene, points: Points) -> list[dict[str, Any]]:
    names = [(point.name, point) for point in points]
    bench.run(lines, scene, iter(point for _, point in names), "gates", lambda text: None)
    return [lines.found[name] for name, _ in names]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.gates", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="small, on the CPU")
    parser.add_argument("--retry", action="store_true", help="do again what failed")
    parser.add_argument("--seconds", type=float, default=200, help="begin nothing after so many")
    arguments = parser.parse_args(argv)
    scene = bench.open_scene(dry=arguments.dry, seed=arguments.seed)
    lines = Lines(arguments.out, scene.device, arguments.seconds, retry=arguments.retry)
    try:
        for gate in (decode_rate, against_dense, gradients, scheduling):
            texts = gate(lines, scene)
            print("\n".join(texts), flush=True)
            lines.write({"name": f"verdicts {gate.__name__}", "status": "ok", "verdicts": texts})
    except TimeIsUp:
        print("time is up; call again for the rest")
        return TIME_IS_UP
    except DeviceIsLost:
        print("the device is lost to this process; call again for the rest")
        return DEVICE_IS_LOST
    return int(any(line["status"] in ("failed", "lost") for line in lines.found.values()))


if __name__ == "__main__":
    end_when_asked()
    sys.exit(main())
