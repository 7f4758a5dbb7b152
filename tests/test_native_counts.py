"""What tools/native_counts.py reads from disassemblies and from callgrind, and what it lets pass."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parent.parent / "tools" / "native_counts.py"
if not PATH.exists():
    pytest.skip("native_counts.py is only in a checkout of the repository", allow_module_level=True)
_spec = importlib.util.spec_from_file_location("native_counts", PATH)
counts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(counts)

DISASSEMBLY = """
0000000000000010 <void f<float, 4>(int)>:
  10:\tvxorps %xmm1,%xmm1,%xmm1
  14:\tvmovups (%rdi,%rcx,4),%zmm0
  1a:\tvfmadd231ps 0x40(%r14,%r9,1),%zmm0,%zmm1
  20:\tvfmadd231ps %zmm2,%zmm0,%zmm3
  24:\tvmovups %zmm3,0x40(%rsp)
  28:\tnopl   0x0(%rax)
  2a:\tjne    14 <void f<float, 4>(int)+0x4>
  2c:\tvfmadd231ps %zmm2,%zmm0,%zmm3
  30:\tjne    10 <void f<float, 4>(int)>
  34:\tret

0000000000000040 <void g<float, 4>(int)>:
  40:\tvfmadd231ps %zmm2,%zmm0,%zmm3
  44:\tjmp    40 <void g<float, 4>(int)>
  48:\tjmp    14 <void f<float, 4>(int)+0x4>
"""


def test_the_innermost_loop_is_counted():
    loop = counts.hottest_loop(DISASSEMBLY, "f<float, 4>(")
    assert loop == counts.Loop(instructions=5, multiply_adds=2, loads=2, spills=1)
    assert loop.figures() == {"instructions": 2.5, "loads": 1.0, "spills": 1}


def test_of_several_loops_the_one_with_most_multiply_adds_is_taken():
    assert counts.hottest_loop(DISASSEMBLY, "<float, 4>(").multiply_adds == 2
    assert counts.hottest_loop(DISASSEMBLY, "g<").instructions == 2  # a jump into another function is no loop


def test_a_function_that_is_not_there_is_an_error():
    with pytest.raises(SystemExit, match="no function h"):
        counts.hottest_loop(DISASSEMBLY, "h<")


def test_callgrind_must_have_counted_something():
    assert counts.collected("==7== Events    : Ir\n==7== Collected : 1234\n") == 1234
    for output in ("==7== Collected : 0\n", "no such option"):
        with pytest.raises(SystemExit, match="counted nothing"):
            counts.collected(output)


@pytest.mark.parametrize(
    ("new", "old", "passes", "remark"),
    [
        (1.04, 1.0, True, ""),
        (1.06, 1.0, False, "WORSE by 6.0 %"),
        (0.96, 1.0, True, ""),
        (0.94, 1.0, True, "better by 6.0 %: update"),
        (0.0, 0.0, True, ""),
        (1.0, 0.0, False, "WORSE"),
    ],
)
def test_five_percent_more_is_too_much(new, old, passes, remark):
    [(is_ok, line)] = counts.compare({"linear": new}, {"linear": old})
    assert is_ok == passes
    assert remark in line
    assert bool(remark) == ("WORSE" in line or "better" in line)


def test_figures_of_one_side_only_fail():
    lines = counts.compare({"new": 1.0}, {"gone": 1.0})
    assert lines == [(False, "gone was not measured"), (False, "new is not committed")]


def test_the_compiler_is_told_from_the_section_comment():
    assert counts.compiler_of("  [     0]  GCC: (Debian 12.2.0-14+deb12u1) 12.2.0") == "g++ 12"
    assert counts.compiler_of("  [     0]  Debian clang version 14.0.6") == "clang++ 14"
    assert counts.compiler_of("") == "unknown"
