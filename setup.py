"""The native libraries of rsn2_kernels; every other fact is in pyproject.toml.

``librsn2_cpu.so`` holds the operators, is free of Python and uses libtorch's stable ABI only; ``_C`` is the Python
module linked to it. ``librsn2_cuda.so`` holds their CUDA kernels. Each source has its own flags (one kernel source is
compiled per instruction set, CUDA also beside a torch without it), which torch.utils.cpp_extension cannot express, so
that the few commands are made here and given to ninja.

``RSN2_NATIVE`` = auto (build when there is a C++ compiler), 0 (pure Python), 1 (no compiler is an error).
``RSN2_CUDA`` = auto (build when there is a CUDA toolkit and torch has CUDA), 0, 1 (no toolkit is an error; compiles
even beside a torch without CUDA). ``CUDA_HOME``, ``TORCH_CUDA_ARCH_LIST``, ``NVCC_FLAGS``, ``CXX``, ``CXXFLAGS``,
``LDFLAGS``, ``MAX_JOBS`` as usual.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
import cuda_toolkit  # noqa: E402

LIBRARY, MODULE, CUDA_LIBRARY = "rsn2_kernels.librsn2_cpu", "rsn2_kernels._C", "rsn2_kernels.librsn2_cuda"
VERSION = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
IS_X86 = platform.machine() in ("x86_64", "AMD64")

FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-Wall", "-Wextra"]
FLAGS += ["-ffp-contract=fast", "-fno-math-errno", "-DNDEBUG", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
LEVEL_FLAGS = {
    "level_avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mbmi2 -mpopcnt".split(),
    "level_avx2": "-mavx2 -mfma -mf16c -mbmi2 -mpopcnt".split(),
}
NVCC_FLAGS = ["-std=c++17", "-O3", "-DUSE_CUDA"]
NVCC_FLAGS += ["-Xcompiler=-fPIC,-fvisibility=hidden,-fvisibility-inlines-hidden,-Wall,-Wextra"]


def switch(name: str) -> str:
    value = os.environ.get(name, "auto")
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{name} must be auto, 0 or 1, got {value!r}")
    return value


def compiler() -> list[str] | None:
    """$CXX, else the first usual name that is there. A $CXX that is not there is an error."""
    if os.environ.get("CXX"):
        command = shlex.split(os.environ["CXX"])
        if shutil.which(command[0]) is None:
            raise SystemExit(f"CXX names {command[0]!r}, which is not there")
        return command
    return next(([name] for name in ("g++", "c++", "clang++") if shutil.which(name)), None)


def wants_native() -> bool:
    wish = switch("RSN2_NATIVE")
    if wish == "1" and compiler() is None:
        raise SystemExit("RSN2_NATIVE=1: no C++ compiler found (set CXX, or install g++ or clang++)")
    return wish != "0" and compiler() is not None


def cuda() -> tuple[cuda_toolkit.Build | None, str]:
    """What to compile the CUDA kernels with, in words as well; or None and why not."""
    wish = switch("RSN2_CUDA")
    if wish == "1" and not wants_native():
        raise SystemExit("RSN2_CUDA=1: the CUDA library needs the native one (a C++ compiler, RSN2_NATIVE not 0)")
    spec = importlib.util.find_spec("torch")
    try:
        toolkit = cuda_toolkit.choose(wish, Path(spec.origin).parent if spec and spec.origin else None, os.environ)
    except cuda_toolkit.NoCuda as why:
        if wish == "1":
            raise SystemExit(f"RSN2_CUDA=1: {why}") from why
        return None, str(why)
    try:
        build = cuda_toolkit.Build(toolkit, os.environ)
    except cuda_toolkit.NoCuda as why:
        raise SystemExit(str(why)) from why
    return build, build.facts


def include_dir_of(package: str, *folders: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"building the native library needs {package}: install it first, or let pip do so by leaving out "
            f"--no-build-isolation, or set RSN2_NATIVE=0 for the pure Python package"
        )
    return Path(spec.origin).parent.joinpath(*folders)


def commit() -> str:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    run = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


def ninja() -> str | None:
    """The ninja of this environment even when its bin folder is not on PATH, else the one on PATH."""
    if importlib.util.find_spec("ninja") is not None:
        import ninja as package

        if (Path(package.BIN_DIR) / "ninja").exists():
            return str(Path(package.BIN_DIR) / "ninja")
    return shutil.which("ninja")


class BuildNative(build_ext):
    def run(self) -> None:
        if self.extensions:
            print(f"rsn2-kernels: CUDA kernels: {'for ' * (CUDA is not None)}{CUDA_FACTS}", flush=True)
        super().run()

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.split(".")[-1] in (LIBRARY.split(".")[-1], CUDA_LIBRARY.split(".")[-1]):
            return str(Path(*fullname.split("."))) + ".so"
        return super().get_ext_filename(fullname)

    def build_extension(self, ext: Extension) -> None:
        cxx, torch, pybind11 = compiler(), include_dir_of("torch"), include_dir_of("pybind11", "include")
        flags = [*FLAGS, *shlex.split(os.environ.get("CXXFLAGS", ""))]
        nvcc_flags = [*NVCC_FLAGS, *shlex.split(os.environ.get("NVCC_FLAGS", ""))]
        torch_version = importlib.metadata.version("torch")
        compiler_line = subprocess.run([*cxx, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
        cuda_facts = CUDA_FACTS if CUDA else "none"
        digest = repr((flags, LEVEL_FLAGS, torch_version, compiler_line, cuda_facts, nvcc_flags if CUDA else None))
        digest = hashlib.sha256(digest.encode())
        for path in sorted((ROOT / "csrc").rglob("*.*")):
            digest.update(path.read_bytes())
        facts = {
            "RSN2_BUILD_ID": digest.hexdigest()[:16],
            "RSN2_VERSION": VERSION,
            "RSN2_COMMIT": commit(),
            "RSN2_TORCH_VERSION": torch_version,
            "RSN2_COMPILER": compiler_line,
            "RSN2_FLAGS": " ".join(flags),
            "RSN2_CUDA_FACTS": cuda_facts,
        }

        # Headers of others are "system" headers: their warnings are not ours. No path of this machine is kept.
        includes = ["-isystem", f"{torch}/include", "-isystem", f"{torch}/include/torch/csrc/api/include"]
        includes += [f"-ffile-prefix-map={torch.parent}=.", f"-ffile-prefix-map={ROOT}=."]
        if ext.name == MODULE:
            includes = ["-isystem", str(pybind11), "-isystem", sysconfig.get_path("include"), *includes]
        elif ext.name == CUDA_LIBRARY:
            includes = ["-DUSE_CUDA", *(word for path in CUDA.includes for word in ("-isystem", path)), *includes]
            nvcc = [CUDA.nvcc, *nvcc_flags, *CUDA.gencode, f"-Xcompiler=-ffile-prefix-map={ROOT}=."]
            if os.environ.get("CXX") and len(cxx) == 1:
                nvcc += ["-ccbin", cxx[0]]
        objects = []
        # Not build_temp, which is a new folder each time an editable installation is made: ninja redoes only changes.
        folder = ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}" / ext.name
        for source in ext.sources:
            if Path(source).suffix == ".cu":
                target = folder / f"{source}.o"
                objects.append((target, [*nvcc, "-c", str(ROOT / source), "-o", str(target)]))
                continue
            own = LEVEL_FLAGS.get(Path(source).stem, [])
            if Path(source).name in ("module.cpp", "library.cpp", "library_cuda.cpp"):
                names = facts if ext.name == MODULE else ["RSN2_BUILD_ID"]
                own = [*own, *(f'-D{name}="{facts[name]}"' for name in names)]
            target = folder / Path(source).with_suffix(".o")
            objects.append((target, [*cxx, *flags, *own, *includes, "-c", str(ROOT / source), "-o", str(target)]))

        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        link = [*cxx, "-shared", *shlex.split(os.environ.get("LDFLAGS", "")), "-Wl,-rpath,$ORIGIN"]
        link += [f"-Wl,-soname,{output.name}", *(str(target) for target, _ in objects)]
        if ext.name == MODULE:
            library = Path(self.get_ext_fullpath(LIBRARY)).resolve()
            link += [f"-L{library.parent}", f"-l:{library.name}"]
        else:
            link += [f"-L{torch}/lib", "-ltorch_cpu"]
        if ext.name == CUDA_LIBRARY:
            link += cuda_link_flags(cxx, folder)
        run_commands(folder, objects, output, [*link, "-o", str(output)])


def cuda_link_flags(cxx: list[str], folder: Path) -> list[str]:
    """torch's CUDA library by its name alone, through an empty one, since the torch here may have none; the CUDA
    runtime in ours and seen by nobody else. Functions are looked up when the library is loaded, not when called."""
    empty = folder / "torch" / "libtorch_cuda.so"
    empty.parent.mkdir(parents=True, exist_ok=True)
    run([*cxx, "-shared", "-x", "c++", os.devnull, f"-Wl,-soname,{empty.name}", "-o", str(empty)])
    flags = ["-Wl,-z,now", "-Wl,--exclude-libs,ALL", "-Wl,--no-as-needed", f"-L{empty.parent}", "-ltorch_cuda"]
    return [*flags, *(f"-L{path}" for path in CUDA.libraries), "-lcudart_static", "-ldl", "-lrt", "-lpthread"]


def run(command: list[str]) -> None:
    if subprocess.run(command).returncode != 0:
        without = "RSN2_NATIVE=0 does without it, RSN2_CUDA=0 without CUDA"
        raise SystemExit(f"building the native library failed ({without}): {shlex.join(command)}")


def run_commands(folder: Path, objects: list[tuple[Path, list[str]]], output: Path, link: list[str]) -> None:
    """Compile and link: by ninja (which redoes only what changed), else all of it, several files at a time."""
    jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    for target, _ in objects:
        target.parent.mkdir(parents=True, exist_ok=True)
    if ninja() is None:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda item: run(item[1]), objects))
        run(link)
        return

    def escape(text: str) -> str:
        return text.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    def command(words: list[str]) -> str:
        return shlex.join(words).replace("$", "$$")

    lines = ["rule compile", "  command = $run -MMD -MF $out.d", "  depfile = $out.d", "  deps = gcc"]
    lines += ["  description = compile $in", "rule link", "  command = $run", "  description = link $out"]
    for target, words in objects:
        source = words[words.index("-c") + 1]
        lines += [f"build {escape(str(target))}: compile {escape(source)}", f"  run = {command(words)}"]
    inputs = " ".join(escape(str(target)) for target, _ in objects)
    lines += [f"build {escape(str(output))}: link {inputs}", f"  run = {command(link)}"]
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    run([ninja(), "-C", str(folder), "-j", str(jobs)])


def sources() -> list[str]:
    found = sorted(path.relative_to(ROOT) for path in (ROOT / "csrc" / "cpu").rglob("*.cpp"))
    return ["csrc/library.cpp", *(str(path) for path in found if IS_X86 or path.stem not in LEVEL_FLAGS)]


def cuda_sources() -> list[str]:
    found = [*(ROOT / "csrc" / "cuda").glob("*.cu"), *(ROOT / "csrc" / "cuda").glob("*.cpp")]
    return ["csrc/library_cuda.cpp", *sorted(str(path.relative_to(ROOT)) for path in found)]


# The library first: the module is linked to it.
extensions = [Extension(LIBRARY, sources()), Extension(MODULE, ["csrc/module.cpp"])] if wants_native() else []
CUDA, CUDA_FACTS = cuda()
if extensions and CUDA:
    extensions.append(Extension(CUDA_LIBRARY, cuda_sources()))
# `rsn2 bench` works in an installation, too: there bench/ is rsn2._bench (a wheel has no place for a "bench").
BENCH = ["rsn2._bench", "rsn2._bench.gpu", "rsn2._bench.ops"]
setup(
    packages=find_packages(include=["rsn2_kernels*"]) + find_packages("python") + BENCH,
    ext_modules=extensions,
    cmdclass={"build_ext": BuildNative},
)
