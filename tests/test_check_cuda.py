"""tools/check_cuda.py: what it reads from ptxas and cuobjdump, and the faults it must find."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"

LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3one' for 'sm_90a'
ptxas info    : Function properties for _Z3one
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size
ptxas info    : Compiling entry function '_Z3two' for 'sm_80'
ptxas info    : Function properties for _Z3two
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 400 bytes cmem[0]
"""
SASS = """\
	code for sm_90
		Function : _Z3one
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                        /* 0x00000a00ff017b82 */
                                                                                 /* 0x000fe20000000800 */
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;     /* 0x000ea8000c1e9d00 */
        /*0020*/                   LDG.E R8, desc[UR4][R2.64] ;                  /* 0x000ea8000c1e1900 */
        /*0030*/             @!UP0 LDGSTS.E.BYPASS.128 [R0], [R2.64] ;           /* 0x0000000002007fae */
        /*0040*/                   LDGSTS.E [R0+0x10], [R2.64] ;                 /* 0x0000000002007fae */
        /*0050*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;         /* 0x0000000c0804723c */
        /*0060*/                   LDSM.16.M88.4 R8, [R0] ;                      /* 0x000000000008783b */
        /*0070*/                   FFMA R1, R2, R3, R1 ;                         /* 0x0000000302017223 */
        /*0080*/                   STG.E desc[UR4][R2.64], R1 ;                  /* 0x0000000102007986 */
        /*0090*/                   EXIT ;                                        /* 0x000000000000794d */
        /*00a0*/                   NOP;                                          /* 0x0000000000007918 */
"""


@pytest.fixture(scope="module")
def counts() -> ModuleType:
    return load("cuda_counts")


def load(name: str) -> ModuleType:
    path = TOOLS / f"{name}.py"
    if not path.exists():
        pytest.skip("only in a checkout of the repository")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_resources(counts):
    assert counts.resources(LOG) == {
        ("_Z3one", "sm_90"): {"stack": 16, "spills": 12, "registers": 40},
        ("_Z3two", "sm_80"): {"stack": 0, "spills": 0, "registers": 255},
    }


def test_instructions(counts):
    (found,) = counts.instructions(SASS).items()
    assert found[0] == ("_Z3one", "sm_90")
    assert {kind: count for kind, count in found[1].items() if count} == {
        "all": 10, "HMMA": 1, "LDSM": 1, "LDG": 2, "LDG.128": 1, "LDGSTS": 2, "LDGSTS.128": 1, "FFMA": 1, "STG": 1,
    }  # fmt: skip


def test_names(counts):
    assert counts.short("void rsn2::kernel_entry<rsn2::Plan>(rsn2::Plan::Arguments)") == "Plan"
    nested = "void rsn2::kernel_entry<rsn2::Tensor<rsn2::Float16, 4> >(rsn2::Tensor<rsn2::Float16, 4>::Arguments)"
    assert counts.short(nested) == "Tensor<Float16, 4>"
    assert counts.short("other") == "other"


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="needs c++filt")
def test_demangled(counts):
    assert counts.demangled(["_ZN4rsn212kernel_entryINS_4PlanEEEvNT_9ArgumentsE"]) == {
        "_ZN4rsn212kernel_entryINS_4PlanEEEvNT_9ArgumentsE": "Plan"
    }


def test_faults(counts):
    frame = {"stack": 16, "spills": 0}
    assert counts.frame_faults("a", frame, {}) == ["a: 16 bytes of stack frame, 0 bytes spilled"]
    assert counts.frame_faults("a", {"stack": 0, "spills": 4}, {"b": "a reason"}) != []
    assert counts.frame_faults("a", frame, {"a": "a reason"}) == []
    assert counts.frame_faults("a", {"stack": 0, "spills": 0}, {}) == []
    assert counts.frame_faults("a", {"registers": 3}, {}) == ["a: ptxas says nothing about its stack frame"]

    none = dict.fromkeys(counts.COUNTED, 0)
    assert counts.intent_faults("sm_80 LinearTiles<Float16, float, 32>", none) != []
    assert counts.intent_faults("sm_90 TaskConv2dForward16<BFloat16, BFloat16>", none) != []
    assert counts.intent_faults("sm_80 LinearTiles<Float16, float, 32>", {**none, "HMMA": 1}) == []
    assert counts.intent_faults("sm_80 Plan", none) == []
    assert counts.intent_faults("sm_80 LinearWide<Float16, 16>", none) == []
    assert counts.intent_faults("sm_80 Plan", {**none, "LDGSTS": 3, "LDGSTS.128": 2}) != []

    committed = {"all": 100, "HMMA": 8}
    assert counts.count_faults("a", {"all": 105, "HMMA": 8}, committed) == []
    assert counts.count_faults("a", {"all": 106, "HMMA": 8}, committed) == ["a: 106 x all, committed 100"]
    assert counts.count_faults("a", {"all": 94, "HMMA": 8}, committed) != []
    assert counts.count_faults("a", {"all": 100}, committed) == ["a: 0 x HMMA, committed 8"]
    assert counts.count_faults("a", {"all": 100, "HMMA": 8, "LDSM": 1}, committed) != []
    assert counts.count_faults("a", {"all": 100}, None) == ["a: no counts are committed"]


def test_kernels_that_are_gone_or_new_are_faults(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    check_cuda = load("check_cuda")
    for name in ("cuda_counts", "cuda_toolkit"):
        monkeypatch.delitem(sys.modules, name)
    none = {"stack": 0, "spills": 0, **dict.fromkeys(["all", *check_cuda.cuda_counts.COUNTED], 0)}
    assert check_cuda.faults_of({"sm_80 New": none}, {"sm_80 Old": {}}) == [
        "sm_80 New: no counts are committed",
        "sm_80 Old: committed, but there is no such kernel",
    ]
    assert check_cuda.faults_of({"sm_80 New": none}, None) == []


def test_what_newer_gpus_spill_is_bounded():
    check_cuda = load("check_cuda")
    none = {"stack": 0, "spills": 0, **dict.fromkeys(["all", *check_cuda.cuda_counts.COUNTED], 0)}
    known = max(check_cuda.NEWER_SPILLS.values())
    assert (
        check_cuda.faults_on_newer({"sm_120 Plan": none, "sm_120 SumOfParts<float, float>": none | {"spills": known}})
        == []
    )
    assert check_cuda.faults_on_newer({"sm_120 Plan": none | {"spills": 4}}) == [
        "sm_120 Plan: 4 bytes spilled, at most 0 are known"
    ]
    assert len(check_cuda.faults_on_newer({"sm_100 LinearTiles<Float16, float, 16>": none})) == 1


def test_without_nvcc_it_says_so(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(TOOLS))
    check_cuda = load("check_cuda")
    for name in ("cuda_counts", "cuda_toolkit"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    check_cuda.main([])
    assert capsys.readouterr().out == "check_cuda: skipped: CUDA_HOME=/nowhere: there is no bin/nvcc\n"
