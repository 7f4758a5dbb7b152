"""What ptxas and the machine code say about the CUDA kernels: the figures that check_cuda.py compares."""

from __future__ import annotations

import re
import subprocess
from collections import Counter

# A count that differs by more than this from the committed one is an error.
ALLOWED_PERCENT = 5.0

# Instructions that are counted, by the start of their name and a part that must follow.
COUNTED = {
    "HMMA": ("HMMA", ""),
    "HGMMA": ("HGMMA", ""),
    "DMMA": ("DMMA", ""),
    "LDSM": ("LDSM", ""),
    "LDG.128": ("LDG", ".128"),
    "LDG": ("LDG.", ""),
    "STG": ("STG", ""),
    "LDGSTS": ("LDGSTS", ""),
    "LDGSTS.128": ("LDGSTS", ".128"),
    "FFMA": ("FFMA", ""),
}

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)")


def demangled(names: list[str]) -> dict[str, str]:
    """What programmers call these kernels: of ``kernel_entry<rsn2::Plan>(...)`` only ``Plan``."""
    run = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return {name: short(line) for name, line in zip(names, run.stdout.splitlines(), strict=True)}


def short(name: str) -> str:
    """The kernel's struct in a demangled name; the name itself where there is none."""
    at = name.find("kernel_entry<")
    if at < 0:
        return name
    depth, first = 0, at + len("kernel_entry<")
    for end in range(first - 1, len(name)):
        depth += (name[end] == "<") - (name[end] == ">")
        if depth == 0:
            return name[first:end].strip().replace("rsn2::", "").replace("(anonymous namespace)::", "")
    raise ValueError(f"not a whole name: {name}")


def resources(log: str) -> dict[tuple[str, str], dict[str, float]]:
    """By mangled name and architecture, from ``ptxas -v``: bytes of stack and spills, registers."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    of_kernel: dict[str, float] = {}
    for line in log.splitlines():
        entry, frame, used = _ENTRY.search(line), _FRAME.search(line), _USED.search(line)
        if entry:
            of_kernel = found.setdefault((entry[1], plain(entry[2])), {})
        elif frame:
            of_kernel.update(stack=int(frame[1]), spills=int(frame[2]) + int(frame[3]))
        elif used:
            of_kernel.update(registers=int(used[1]))
    return found


def instructions(disassembly: str) -> dict[tuple[str, str], dict[str, float]]:
    """By mangled name and architecture, from ``cuobjdump -sass``: instructions of each counted kind, and of all."""
    found: dict[tuple[str, str], Counter[str]] = {}
    architecture, counts = "", Counter[str]()
    for line in disassembly.splitlines():
        if "code for sm_" in line:
            architecture = plain(line.split("code for ")[1])
        elif "Function :" in line:
            counts = found.setdefault((line.split("Function :")[1].strip(), architecture), Counter())
        else:
            instruction = _INSTRUCTION.match(line)
            if instruction and instruction[1] != "NOP":
                counts["all"] += 1
                counts.update(kind for kind, (start, part) in COUNTED.items() if is_of(instruction[1], start, part))
    return {key: {"all": counts["all"], **{kind: counts[kind] for kind in COUNTED}} for key, counts in found.items()}


def is_of(instruction: str, start: str, part: str) -> bool:
    """Whether an instruction's name starts so, as a whole word, and has that part after it."""
    rest = instruction.removeprefix(start.rstrip("."))
    return rest != instruction and rest[:1] in ("", ".") and part in rest


def plain(architecture: str) -> str:
    """Without the letter: an older cuobjdump says sm_90 of what ptxas calls sm_90a."""
    return architecture.strip().rstrip("af")


def frame_faults(name: str, figures: dict[str, float], allowed: dict[str, str]) -> list[str]:
    """Spilled registers and stack frames, which no kernel has without a reason."""
    if "stack" not in figures:
        return [f"{name}: ptxas says nothing about its stack frame"]
    if (figures["stack"] or figures["spills"]) and name not in allowed:
        return [f"{name}: {figures['stack']} bytes of stack frame, {figures['spills']} bytes spilled"]
    return []


FOR_TENSOR_CORES = ("Tiles", "16")
"""How the names of kernels end that multiply on tensor cores: LinearTiles, TaskConv2dForward16 and their like."""


def intent_faults(name: str, counts: dict[str, float]) -> list[str]:
    """Instructions that a kernel was written for and does not have."""
    faults = []
    kernel = name.split(maxsplit=1)[-1].split("<")[0]  # of "sm_80 LinearTiles<...>"
    if kernel.endswith(FOR_TENSOR_CORES) and counts["HMMA"] + counts["HGMMA"] + counts["DMMA"] == 0:
        faults.append(f"{name}: is meant for the tensor cores and has no instruction of theirs")
    if counts["LDGSTS"] != counts["LDGSTS.128"]:
        narrow = counts["LDGSTS"] - counts["LDGSTS.128"]
        faults.append(f"{name}: {narrow} of its asynchronous copies are of less than 128 bits")
    return faults


def count_faults(name: str, counts: dict[str, float], committed: dict[str, float] | None) -> list[str]:
    """How the counts differ from the committed ones."""
    if committed is None:
        return [f"{name}: no counts are committed"]
    faults = []
    for kind in {**counts, **committed}:
        count, wanted = counts.get(kind, 0), committed.get(kind, 0)
        if abs(count - wanted) > ALLOWED_PERCENT / 100 * wanted:
            faults.append(f"{name}: {count} x {kind}, committed {wanted}")
    return faults


def table(rows: dict[str, dict[str, float]], *more: str) -> str:
    """A line for each kernel; `more` are figures beside the counts."""
    kinds = ["registers", "stack", "spills", "all", *COUNTED, *more]
    width = max(map(len, rows), default=0)
    lines = [" " * width + "".join(f"{kind:>11}" for kind in kinds)]
    for name, figures in sorted(rows.items()):
        lines.append(f"{name:<{width}}" + "".join(f"{figures.get(kind, ''):>11}" for kind in kinds))
    return "\n".join(lines)
