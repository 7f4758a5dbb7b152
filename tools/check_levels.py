"""Check that no CPU level's instructions leak: `python tools/check_levels.py FOLDER_OF_OBJECTS`.

Each ``level_<name>.o`` may export nothing but its one table and run nothing at start-up: a function that the linker
could merge with another file's copy would put wide instructions on machines that lack them. Every other object, and
the portable level, may use only the instructions of the plainest x86-64 machine; the AVX2 level none of AVX-512.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

# What a compiler may call on its own for plain loops and copies, and the table of offsets of position-free code.
ALLOWED_CALLS = {"memcpy", "memmove", "memset", "_GLOBAL_OFFSET_TABLE_"}
WIDE_REGISTER = re.compile(r"%(ymm|zmm|k[0-7])")
AVX_MNEMONIC = re.compile(r"^v(?!err$|erw$|erify)")
BEYOND_BASELINE = {"popcnt", "andn", "bextr", "bzhi", "mulx", "pdep", "pext", "rorx", "sarx", "shlx", "shrx"}
AVX512_ONLY = re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]|\{(%k[0-7]|z|1to\d+|r[nduz]-sae)\}")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def symbol_faults(level: str, symbols: str, sections: str) -> list[str]:
    """Faults in what a level exports, calls and runs at start-up, from the output of ``nm -C`` and ``objdump -h``."""
    faults = []
    for line in symbols.splitlines():
        kind, name = re.match(r"^[0-9a-f]* *([A-Za-z]) (.+)$", line).groups()  # type: ignore[union-attr]
        if kind in "Uw" and name not in ALLOWED_CALLS:
            faults.append(f"calls {name}, which lies in another file")
        elif (kind.isupper() and kind != "U") or kind in "uvw" and name not in ALLOWED_CALLS:
            if name != f"rsn2::kernels_{level}" or kind in "WVuvw":
                faults.append(f"exports {name} (nm says {kind})")
    for section in (".init_array", ".ctors", ".group"):
        if re.search(rf"\s{re.escape(section)}(\s|\.)", sections):
            faults.append(f"has a section {section}: code run at start-up, or merged by the linker")
    return faults


def instruction_faults(name: str, disassembly: str) -> list[str]:
    """Instructions that the object of this name must not have, from the output of ``objdump -d --no-show-raw-insn``."""
    faults = []
    for line in disassembly.splitlines():
        fields = line.split("\t")
        if len(fields) < 2 or not fields[0].strip().endswith(":"):
            continue
        instruction = fields[1].split("#")[0].strip()
        mnemonic = instruction.split()[0] if instruction else ""
        if name == "level_avx512":
            bad = False
        elif name == "level_avx2":
            bad = AVX512_ONLY.search(instruction) is not None
        else:
            bad = bool(
                WIDE_REGISTER.search(instruction) or AVX_MNEMONIC.search(mnemonic) or mnemonic in BEYOND_BASELINE
            )
        if bad:
            faults.append(f"has the instruction: {instruction}")
    return faults


def faults_of(path: Path) -> list[str]:
    """All faults of one object file."""
    faults = instruction_faults(path.stem, run("objdump", "-d", "--no-show-raw-insn", str(path)))
    if path.stem.startswith("level_"):
        level = path.stem.removeprefix("level_")
        faults += symbol_faults(level, run("nm", "-C", str(path)), run("objdump", "-h", str(path)))
    return faults


def main(folders: list[str]) -> None:
    if shutil.which("objdump") is None or shutil.which("nm") is None:
        raise SystemExit("check_levels: objdump and nm (binutils) are needed")
    objects = sorted(path for folder in folders for path in Path(folder).rglob("*.o"))
    if not any(path.stem.startswith("level_") for path in objects):
        raise SystemExit(f"check_levels: no level objects under {folders}; build first")
    num_faults = 0
    for path in objects:
        faults = faults_of(path)
        num_faults += len(faults)
        print(f"{path.stem:<16} {'clean' if not faults else f'{len(faults)} faults'}")
        for fault in faults[:10]:
            print(f"    {fault}")
    raise SystemExit(1 if num_faults else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
