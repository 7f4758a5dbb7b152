"""Speed on the device: `python -m bench.gpu.bench --out FILE.jsonl [--blocks A B C ...] [--filter TEXT] [--dry]`.

Each point is proved against float64, then timed, beside the others' ways; the blocks come in an order in which what was
measured before the time was up holds the headline. What is in the file already is not measured again. Where
``RSN2_BACKEND`` forces a backend, names begin with it, and no goal is judged.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import ceilings, conv, linear, mixed, models
from .device import open_device
from .lines import DEVICE_IS_LOST, TIME_IS_UP, DeviceIsLost, Lines, TimeIsUp, end_when_asked, free_cache
from .points import Point, Points, Scene, measure
from .problems import generator_for
from .summary import of_goals, row

BLOCKS: dict[str, Callable[[Scene], Points]] = {
    "A": ceilings.points,
    "B": linear.decode,
    "C": linear.forwards,
    "E": mixed.points,
    "D": linear.gradients,
    "G": conv.points,
    "F": linear.blocks,
    "C'": linear.other_dtypes,
    "H": models.points,
}


def run(lines: Lines, scene: Scene, points: Points, stage: str, say: Callable[[str], None]) -> None:
    """Measure points and write and say their lines.

    Raises:
        TimeIsUp, DeviceIsLost: as :meth:`Lines.run` does.
    """
    for point in points:
        name = " ".join(filter(None, [os.environ.get("RSN2_BACKEND"), point.name]))
        is_new = name not in lines.found
        line = lines.run(name, _work(scene, point), stage=stage, block=point.block, **_facts(scene, point))
        if is_new:
            say(row(line))
            free_cache(scene.device)


def _work(scene: Scene, point: Point) -> Callable[[], dict[str, Any]]:
    def work() -> dict[str, Any]:
        line = measure(scene, point)
        return line if "RSN2_BACKEND" not in os.environ else {**line, "goals": []}

    return work


def _facts(scene: Scene, point: Point) -> dict[str, Any]:
    return {"settings": point.settings, "device": scene.device.name, "dry": scene.dry}


def open_scene(*, dry: bool, seed: int) -> Scene:
    device = open_device(dry=dry)
    return Scene(device, seed, dry, generator_for(seed, "points", device.torch_device))


def spread_out(points: list[Point], number: int) -> list[Point]:
    """So many of the points, from the first to the last."""
    return points if len(points) <= number else [points[i * len(points) // number] for i in range(number)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.bench", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--blocks", nargs="*", default=list(BLOCKS), choices=list(BLOCKS))
    parser.add_argument("--filter", default="", metavar="PATTERN", help="only points in whose name it is found")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="a few small points of each block, on the CPU")
    parser.add_argument("--retry", action="store_true", help="do again what failed")
    parser.add_argument("--seconds", type=float, default=480, help="begin nothing after so many")
    arguments = parser.parse_args(argv)
    scene = open_scene(dry=arguments.dry, seed=arguments.seed)
    lines = Lines(arguments.out, scene.device, arguments.seconds, retry=arguments.retry)
    status = 0
    try:
        for block in arguments.blocks:
            found = [point for point in BLOCKS[block](scene) if re.search(arguments.filter, point.name)]
            run(lines, scene, iter(spread_out(found, 4) if arguments.dry else found), "bench", print)
    except TimeIsUp:
        print("time is up; call again for the rest")
        status = TIME_IS_UP
    except DeviceIsLost:
        print("the device is lost to this process; call again for the rest")
        status = DEVICE_IS_LOST
    print(of_goals(list(lines.found.values())))
    return status or int(any(line["status"] in ("failed", "lost") for line in lines.found.values()))


if __name__ == "__main__":
    end_when_asked()
    sys.exit(main())
