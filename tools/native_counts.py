"""Instructions of the CPU kernels, from callgrind and from the disassembly: what check_native.py compares."""

from __future__ import annotations

import re
from typing import NamedTuple

# More than this above the committed figure is an error, this far below it asks for an update.
ALLOWED_PERCENT = 5.0

# Function whose instructions callgrind counts, callees included, in one call of `driver count NAME`.
COUNTED = {
    "linear": "rsn2::avx2::(anonymous namespace)::product(rsn2::TaskLinearProduct const&)",
    "linear_grad_values": "rsn2::avx2::(anonymous namespace)::sampled(rsn2::TaskLinearSampled const&)",
    "conv2d": "rsn2::conv_forward(*",
}
# Function of the AVX-512 level whose innermost loop with the most multiply-adds is looked at.
LOOPS = {
    "linear": "add_block<float, float, 4>(",
    "linear_grad_values": "::sampled(",
    "conv2d": "walk_piece<float, 2, 8>(",
}

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_JUMP = re.compile(r"^j\w+ +([0-9a-f]+) <")


class Loop(NamedTuple):
    """What one turn of a loop executes."""

    instructions: int
    multiply_adds: int
    loads: int  # vectors read from memory, as an operand or by themselves
    spills: int  # vectors moved to or from the stack

    def figures(self) -> dict[str, float]:
        """What is committed: counts for each multiply-add, so that an unrolled loop compares with a shorter one."""
        return {
            "instructions": round(self.instructions / self.multiply_adds, 4),
            "loads": round(self.loads / self.multiply_adds, 4),
            "spills": self.spills,
        }


def functions(disassembly: str) -> dict[str, list[tuple[int, str]]]:
    """Address and text of every instruction, by function, from ``objdump -d -C --no-show-raw-insn``."""
    found: dict[str, list[tuple[int, str]]] = {}
    body: list[tuple[int, str]] = []
    for line in disassembly.splitlines():
        title = _FUNCTION.match(line)
        if title:
            body = found.setdefault(title[1], [])
            continue
        address, separator, text = line.partition(":\t")
        if separator and text.strip():
            body.append((int(address, 16), text.split("#")[0].strip()))
    return found


def innermost_loops(body: list[tuple[int, str]]) -> list[list[str]]:
    """The instructions of each loop that holds no other loop: from the target of a jump backwards to the jump."""
    spans = []
    for address, text in body:
        jump = _JUMP.match(text)
        if jump and body[0][0] <= int(jump[1], 16) <= address:
            spans.append((int(jump[1], 16), address))
    inner = [a for a in spans if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [[text for address, text in body if first <= address <= last] for first, last in inner]


def describe(loop: list[str]) -> Loop:
    """Count one loop's instructions."""
    vectors = [text for text in loop if "%zmm" in text]
    moved = [text for text in vectors if re.match(r"vmov\w+ ", text)]
    is_store = [bool(re.search(r", *-?(0x[0-9a-f]+)?\([^)]*\)$", text)) for text in vectors]
    return Loop(
        instructions=len([text for text in loop if not text.startswith("nop")]),
        multiply_adds=sum(text.startswith("vfmadd") for text in vectors),
        loads=sum("(" in text and not stored for text, stored in zip(vectors, is_store, strict=True)),
        spills=sum("%rsp" in text or "%rbp" in text for text in moved),
    )


def hottest_loop(disassembly: str, name: str) -> Loop:
    """The innermost loop with the most multiply-adds of the functions whose name holds ``name``."""
    bodies = [body for title, body in functions(disassembly).items() if name in title]
    loops = [describe(loop) for body in bodies for loop in innermost_loops(body)]
    loops = [loop for loop in loops if loop.multiply_adds > 0]
    if not loops:
        raise SystemExit(
            f"native_counts: no function {name}...) with a loop of multiply-adds; name the new one in LOOPS"
        )
    return max(loops, key=lambda loop: (loop.multiply_adds, loop.instructions))


def collected(callgrind_output: str) -> int:
    """Instructions that callgrind counted; zero would mean that no function had the name."""
    match = re.search(r"Collected *: *(\d+)", callgrind_output)
    if match is None or int(match[1]) == 0:
        raise SystemExit(
            f"native_counts: callgrind counted nothing; name the new function in COUNTED\n{callgrind_output}"
        )
    return int(match[1])


def compare(measured: dict[str, float], committed: dict[str, float]) -> list[tuple[bool, str]]:
    """A line for each figure, and whether it passes."""
    lines = []
    for name in sorted({*measured, *committed}):
        if name not in measured or name not in committed:
            where = "was not measured" if name not in measured else "is not committed"
            lines.append((False, f"{name} {where}"))
            continue
        new, old = measured[name], committed[name]
        percent = 100.0 * (new - old) / old if old else 100.0 * (new > 0)
        remark = ""
        if percent > ALLOWED_PERCENT:
            remark = f"  WORSE by {percent:.1f} %, more than {ALLOWED_PERCENT:g} %"
        elif percent < -ALLOWED_PERCENT:
            remark = f"  better by {-percent:.1f} %: update"
        lines.append((percent <= ALLOWED_PERCENT, f"{name:<44} {new:10.4f}  committed {old:10.4f}{remark}"))
    return lines


def compiler_of(comment: str) -> str:
    """``g++ 12`` or ``clang++ 14`` from the section .comment of an object, as ``readelf -p .comment`` prints it."""
    for pattern, name in ((r"clang version (\d+)", "clang++"), (r"GCC: \(.*\) (\d+)\.", "g++")):
        match = re.search(pattern, comment)
        if match:
            return f"{name} {match[1]}"
    return "unknown"
