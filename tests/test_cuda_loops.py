"""tools/cuda_loops.py: which loop of a kernel's machine code decodes weights, and how long it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "cuda_loops.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    if not TOOL.exists():
        pytest.skip("only in a checkout of the repository")
    spec = importlib.util.spec_from_file_location("cuda_loops", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def disassembled(*instructions: str, first: int = 0) -> str:
    """As cuobjdump prints them: the address in front, the code behind and on a line of its own."""
    lines = []
    for i, instruction in enumerate(instructions):
        lines.append(f"        /*{16 * (first + i):04x}*/             {instruction} ;       /* 0x0000000302017223 */")
        lines.append(" " * 80 + "/* 0x000fe20000000800 */")
    return "\n".join(lines)


def kernel(name: str, *instructions: str, architecture: str = "sm_90") -> str:
    return f"\tcode for {architecture}\n\t\tFunction : {name}\n{disassembled(*instructions)}\n"


FEW = "_ZN4rsn212kernel_entryINS_9LinearFewIffLi1EEEEEvNT_9ArgumentsE"
COLUMN = "LDG.E.U8.CONSTANT R4, desc[UR4][R2.64]"
TAIL = ["@P1 LDG.E.U8 R5, desc[UR4][R2.64]", "FFMA R1, R2, R3, R1", "@P2 BRA {here}"]


def step(*, columns: int, rest: int) -> list[str]:
    """From address 0x20: a step with a loop for the weights beyond those fetched ahead, in an outer loop."""
    body = ["MOV R1, c[0x0][0x28]", "S2R R0, SR_TID.X", *[COLUMN] * columns, *["FFMA R1, R2, R3, R1"] * rest]
    here = 16 * len(body)
    body += [line.format(here=hex(here)) for line in TAIL]
    body += ["NOP", "@!P0 BRA 0x20", "@P3 BRA 0x10", "EXIT", f"BRA {hex(16 * (len(body) + 4))}"]
    return body


def test_the_step_is_the_smallest_loop_with_its_loads_without_the_loops_inside(tool):
    (code,) = tool.code_of(kernel(FEW, *step(columns=8, rest=54))).values()
    assert tool.decode_loop(code) == 8 + 54 + 1  # and the branch back
    assert tool.decode_per_64(code) == round(63 / 32, 2)


def test_loops_with_fewer_loads_decode_nothing(tool):
    (code,) = tool.code_of(kernel(FEW, *step(columns=7, rest=54))).values()
    assert tool.decode_loop(code) == 0


def test_loops_that_share_a_first_instruction_are_one(tool):
    (code,) = tool.code_of(kernel(FEW, "MOV", "@P0 BRA 0x0", "FFMA R1, R2, R3, R1", "@P1 BRA 0x0", "BRA 0x40")).values()
    assert tool.loops(code) == [(0, 0x30)]


def test_only_what_decodes_is_looked_at(tool):
    text = kernel("_ZN4rsn212kernel_entryINS_4PlanEEEvNT_9ArgumentsE", "EXIT") + kernel(FEW, "EXIT")
    text += kernel(FEW, "@!UP0 BRA.U 0x0", architecture="sm_80")
    found = tool.code_of(text)
    assert list(found) == [(FEW, "sm_90"), (FEW, "sm_80")]
    assert [[*instruction] for instruction in found[FEW, "sm_80"]] == [[0, "BRA.U", 0]]


def test_column_loads(tool):
    assert tool.is_column_load("LDG.E.U8.CONSTANT") and tool.is_column_load("LDG.U8.E")
    assert not any(map(tool.is_column_load, ("LDG.E.U16.CONSTANT", "LDS.U8", "STG.E.U8")))
