"""How many instructions the decode of weights takes, from the loops in a kernel's machine code.

The figure is GPU.md's: instructions of a warp for 64 positions of the weight matrix, owned or not. A loop is what lies
between a branch backwards and its target. The decode is the smallest loop with all the loads of column bytes that a
step fetches ahead; loops inside it (what a row has beyond those, the multiplication, the inputs' copies) are left out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

COLUMN_LOADS = 8
"""In one step: kTogether x kAhead of LinearFew, kRowsEach x kAhead of TileWeights for 64 rows and 256 threads."""

POSITIONS = 2048
"""That a warp decodes in one step: two rows x four spans of 256, or an eighth of 64 x 256."""

KERNELS = ("LinearFew", "LinearTiles", "TaskConv2dForward16")
"""K1, K2 (whose step has a frozen store's weights, too) and the convolution's K2: their steps have that size."""

FIGURE = "decode/64"

_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)\s*([^;]*)")
_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")


class Instruction(NamedTuple):
    """One of the machine code.

    Attributes:
        at: its address.
        name: such as ``LDG.E.U8.CONSTANT``.
        target: where a branch goes to, -1 for other instructions.
    """

    at: int
    name: str
    target: int


def parsed(line: str) -> Instruction | None:
    """The instruction on a line of ``cuobjdump -sass``, if there is one that does something."""
    found = _INSTRUCTION.match(line)
    if found is None or found[2] == "NOP":
        return None
    target = _TARGET.search(found[3]) if found[2].split(".")[0] == "BRA" else None
    return Instruction(int(found[1], 16), found[2], int(target[1], 16) if target else -1)


def code_of(disassembly: str) -> dict[tuple[str, str], list[Instruction]]:
    """By mangled name and architecture, from ``cuobjdump -sass``: the instructions of each of KERNELS."""
    found: dict[tuple[str, str], list[Instruction]] = {}
    architecture, code = "", list[Instruction]()
    for line in disassembly.splitlines():
        if "code for sm_" in line:
            architecture = line.split("code for ")[1].strip()
        elif "Function :" in line:
            name, code = line.split("Function :")[1].strip(), []
            if any(kernel + "I" in name for kernel in KERNELS):  # I: its template arguments follow
                found[name, architecture] = code
        elif instruction := parsed(line):
            code.append(instruction)
    return found


def loops(code: list[Instruction]) -> list[tuple[int, int]]:
    """Addresses of the first and the last instruction of each, the smallest loop first; one for each first address."""
    ends: dict[int, int] = {}
    for instruction in code:
        if 0 <= instruction.target <= instruction.at:
            ends[instruction.target] = max(instruction.at, ends.get(instruction.target, 0))
    found = [loop for loop in ends.items() if loop[0] != loop[1]]  # an endless loop on the spot ends every kernel
    return sorted(found, key=lambda loop: loop[1] - loop[0])


def is_column_load(name: str) -> bool:
    return name.startswith("LDG.") and ".U8" in name


def decode_loop(code: list[Instruction]) -> int:
    """Instructions of one step of the decode; 0 when no loop has its loads."""
    every = loops(code)
    for first, last in every:
        inside = [loop for loop in every if first <= loop[0] and loop[1] <= last and loop != (first, last)]
        own = [
            instruction.name
            for instruction in code
            if first <= instruction.at <= last and not any(low <= instruction.at <= high for low, high in inside)
        ]
        if sum(map(is_column_load, own)) >= COLUMN_LOADS:
            return len(own)
    return 0


def decode_per_64(code: list[Instruction]) -> float:
    """Instructions of a warp for 64 positions."""
    return round(decode_loop(code) * 64 / POSITIONS, 2)
