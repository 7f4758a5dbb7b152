"""Correctness on the device: `python -m bench.gpu.check --backend cuda|triton --out FILE.jsonl [--dry] [--tiny]`.

Every operator against float64 with fresh random inputs, in memory that was poisoned first, and all that the operators
promise. It needs torch alone. What is in the file already is not done again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from .lines import DEVICE_IS_LOST, TIME_IS_UP, DeviceIsLost, Lines, TimeIsUp, end_when_asked, free_cache

TINY = ("shapes", "conv_shapes")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.check", description=__doc__)
    parser.add_argument("--backend", required=True, help="what RSN2_BACKEND is set to")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=None, help="of the inputs; a fresh one by default")
    parser.add_argument("--groups", nargs="*", help="only these")
    parser.add_argument("--dry", action="store_true", help="on the CPU, small")
    parser.add_argument("--tiny", action="store_true", help="few small checks, for compute-sanitizer")
    parser.add_argument("--retry", action="store_true", help="do again what failed")
    parser.add_argument("--seconds", type=float, default=500, help="begin nothing after so many")
    arguments = parser.parse_args(argv)
    os.environ["RSN2_BACKEND"] = arguments.backend  # before rsn2_kernels is imported
    seed = int.from_bytes(os.urandom(4), "little") if arguments.seed is None else arguments.seed
    print(f"check: backend {arguments.backend}, seed {seed}", flush=True)

    from . import odd_inputs, promises, values
    from .device import open_device

    # The promises first: they are the fewest and say the most when a kernel is new.
    groups: dict[str, Any] = {
        name: getattr(module, name)
        for module, names in (
            (values, ("shapes", "conv_shapes")),
            (odd_inputs, ("odd_inputs",)),
            (promises, ("repeat", "one_by_one", "others_are_nan", "graphs", "streams", "devices")),
            (promises, ("no_waiting", "compiled", "tf32")),
            (values, ("options", "many", "many_conv")),
            (promises, ("far_offsets",)),
        )
        for name in names
    }
    device = open_device(dry=arguments.dry)
    setting = values.Setting(device, seed, dry=arguments.dry, tiny=arguments.tiny)
    lines = Lines(arguments.out, device, arguments.seconds, retry=arguments.retry)
    facts = {"stage": "test", "backend": arguments.backend, "seed": seed, "device": device.name}
    chosen = arguments.groups or (TINY if arguments.tiny else groups)
    found = []
    status = 0
    try:
        for group in chosen:
            own = []
            for name, work in groups[group](setting):
                own.append(lines.run(f"{arguments.backend} {group}: {name}", work, group=group, **facts))
                if own[-1]["status"] in ("failed", "lost"):
                    print(f"FAILED {own[-1]['name']}: {own[-1]['why']}", flush=True)
            found += own
            print(f"{group}: {said(own)}", flush=True)
            free_cache(device)
    except TimeIsUp:
        print("time is up; call again for the rest")
        status = TIME_IS_UP
    except DeviceIsLost:
        print("the device is lost to this process; call again for the rest")
        status = DEVICE_IS_LOST
    print(f"check {arguments.backend}: {said(found)}")
    bad = any(line["status"] in ("failed", "lost") for line in lines.found.values()
              if line.get("backend") == arguments.backend)  # fmt: skip
    return status or int(bad)


def said(lines: list[dict[str, Any]]) -> str:
    return ", ".join(f"{number} {status}" for status, number in Counter(line["status"] for line in lines).items())


if __name__ == "__main__":
    end_when_asked()
    sys.exit(main())
