#!/usr/bin/env bash
# All that needs a GPU: bench/gpu_suite.sh STAGE --out DIR [--dry] [--retry]
#
#   build     the CUDA library for the GPU that is here; DIR/backends.txt, DIR/facts.json
#   test      every operator against float64 on the device and what it promises (DIR/test.jsonl), then pytest --device cuda
#   gates     the few figures that decide the design; DIR/gates.jsonl
#   bench     the whole matrix of speed, the headline first; DIR/bench.jsonl
#   sanitize  a few small checks under compute-sanitizer
#   all       build, gates, test, sanitize, bench
#
# A stage takes at most LIMIT seconds (570), then stops; called again it goes on where it stopped, since the files in DIR
# say what is done. DIR belongs to one build: after a change of the kernels use another one. --retry does again what
# failed; --dry runs it all on the CPU, small, where no time means anything. PYTHON names the interpreter (python3): torch
# with CUDA, Triton, nvcc and, for the build, setuptools and pybind11. Status: 0; 1 where a result is wrong or the build
# fails; 75 where time was up; 2 for wrong arguments.
set -u -o pipefail

usage() { sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 2; }

stage=${1:-}
[ $# -gt 0 ] && shift
out="" dry="" retry=""
while [ $# -gt 0 ]; do
  case $1 in
    --out) [ $# -gt 1 ] || usage; out=$2; shift 2 ;;
    --dry) dry=--dry; shift ;;
    --retry) retry=--retry; shift ;;
    *) usage ;;
  esac
done
case $stage in build|test|gates|bench|sanitize|all) ;; *) usage ;; esac
[ -n "$out" ] || usage

mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
limit=${LIMIT:-570}
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:$PWD/python${PYTHONPATH:+:$PYTHONPATH}"
# Out-of-range ids make NaN rows here, not device asserts; every process chooses its backend itself.
unset RSN2_DEBUG RSN2_BACKEND
[ -n "$dry" ] && export OMP_NUM_THREADS=1
status=0
end=0
present=""
excuse=""  # words of a program that cannot run here at all
slow=""    # whether a part that takes too long is slow, not hung

left() { echo $((end - SECONDS)); }
is_done() { [ -f "$out/parts.txt" ] && grep -q "^$1 ok" "$out/parts.txt"; }

# note NAME WORDS: what became of a part, one line each.
note() {
  local name=$1; shift
  touch "$out/parts.txt"
  grep -v "^$name " "$out/parts.txt" >"$out/parts.new"
  echo "$name $*" >>"$out/parts.new"
  mv "$out/parts.new" "$out/parts.txt"
}

worse() { if [ "$status" -ne 1 ]; then status=$1; fi; }

# part NAME SECONDS COMMAND...: until it has succeeded once. After 75 there was no time left; after 76, or a signal, the
# process lost the device or hung, and another one goes on behind what did that.
part() {
  local name=$1 seconds=$2 attempt code room before started=$SECONDS; shift 2
  if is_done "$name"; then echo "== $name: done before"; return 0; fi
  for attempt in 1 2 3 4 5 6; do
    room=$(left)
    [ "$seconds" -lt "$room" ] && room=$seconds
    if [ "$room" -lt 5 ]; then note "$name" "no time left"; worse 75; return 75; fi
    echo "== $name (at most $room s)" | tee -a "$out/log.txt"
    before=$(wc -l <"$out/log.txt")
    SECONDS_LEFT=$((room - 15)) timeout --kill-after=10 "$room" "$@" 2>&1 | tee -a "$out/log.txt"
    code=${PIPESTATUS[0]}
    case $code in
      0) note "$name" "ok $((SECONDS - started)) s"; return 0 ;;
      *) if [ -n "$excuse" ] && tail -n +$((before + 1)) "$out/log.txt" | grep -q "$excuse"; then absent "$name" "$excuse"; return 0; fi ;;
    esac
    case $code in
      [1-5]) note "$name" "FAILED (status $code)"; worse 1; return 1 ;;
      75) note "$name" "time is up"; worse 75; return 75 ;;
      124|137) if [ -n "$slow" ]; then note "$name" "time is up"; worse 75; return 75; fi ;;&
      *) echo "== $name ended with status $code" | tee -a "$out/log.txt" ;;
    esac
  done
  note "$name" "FAILED (status $code, again and again)"; worse 1; return 1
}

absent() { echo "== $1: absent: $2"; note "$1" "absent: $2"; }
has_module() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }
# has_backend NAME: whether it is present; asked of Python once, by the build stage or here.
has_backend() {
  [ -n "$present" ] || [ ! -f "$out/backends.txt" ] || present=" $(awk '$2 == "present" { print $1 }' "$out/backends.txt" | xargs) "
  [ -n "$present" ] || present=" $("$python" -c "import rsn2_kernels; print(*rsn2_kernels.backends())") "
  case $present in *" $1 "*) return 0 ;; *) return 1 ;; esac
}
why_no_backend() { "$python" -c "import rsn2_kernels; print(rsn2_kernels.backends()['$1'].reason)"; }

# Python that is given the seconds left as an argument, and --dry, --retry.
python_part() {
  local name=$1 seconds=$2; shift 2
  part "$name" "$seconds" bash -c 'exec "$0" "$@" --seconds "$(( SECONDS_LEFT > 5 ? SECONDS_LEFT : 5 ))"' \
    "$python" -m "$@" $dry $retry
}

build() {
  local arch
  arch=${TORCH_CUDA_ARCH_LIST:-}
  if [ -z "$arch" ] && command -v nvidia-smi >/dev/null; then
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id=0 | grep -E '^[0-9]+\.[0-9]+$')
  fi
  [ -n "$arch$dry" ] || arch=$("$python" -m bench.gpu.facts --arch)
  [ "$arch" = 9.0 ] && arch=9.0a  # with what only this generation has
  echo "python: $(command -v "$python"), nvcc: $(command -v nvcc || echo absent), architecture: ${arch:-no GPU}"
  echo "build: RSN2_CUDA=1 TORCH_CUDA_ARCH_LIST=$arch $python setup.py build_ext --inplace"
  if [ -z "$dry" ]; then
    [ -n "$arch" ] || { echo "no GPU, and TORCH_CUDA_ARCH_LIST is not set"; note build "FAILED (no architecture)"; worse 1; return; }
    part build 540 env RSN2_CUDA=1 TORCH_CUDA_ARCH_LIST="$arch" "$python" setup.py build_ext --inplace || return
  fi
  "$python" -m bench.gpu.facts >"$out/facts.json" || { note facts FAILED; worse 1; }
  if "$python" -c "import rsn2_kernels; print(rsn2_kernels.backends())" >"$out/backends.txt" 2>&1; then
    cat "$out/backends.txt"
    note backends ok
  else
    cat "$out/backends.txt"
    note backends FAILED; worse 1; return
  fi
  if [ -z "$dry" ] && ! has_backend cuda; then note backends "FAILED: no CUDA kernels after the build"; worse 1; fi
}

# Which backends are checked: those of the GPU; when dry, what the CPU has.
backends() {
  if [ -z "$dry" ]; then echo cuda triton; elif has_backend cpu; then echo cpu; else echo reference; fi
}

# One seed for all that is checked into DIR, a fresh one for each DIR.
seed() {
  touch "$out/parts.txt"
  grep -q '^seed ' "$out/parts.txt" || note seed "$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')"
  sed -n 's/^seed //p' "$out/parts.txt"
}

checks() {
  local backend folder
  for backend in $(backends); do
    if has_backend "$backend"; then
      python_part "check-$backend" 400 bench.gpu.check --backend "$backend" --out "$out/test.jsonl" --seed "$(seed)"
    else
      absent "check-$backend" "$(why_no_backend "$backend")"
      if [ "$backend" = cuda ]; then note check-cuda "FAILED: no CUDA kernels"; worse 1; fi
    fi
  done
  if ! has_module pytest || ! has_module hypothesis; then
    absent pytest "pytest and hypothesis are wanted; the device was checked without them"
    return
  fi
  slow=yes
  folder=tests/rsn2_kernels
  if [ -n "$dry" ]; then
    pytest_part dry $folder/ops/test_task_linear.py $folder/device -k "wanted_slots or waiting_is_seen"
  else
      pytest_part linear $folder/ops --ignore=$folder/ops/test_task_conv2d.py
    pytest_part conv $folder/ops/test_task_conv2d.py
    pytest_part autograd $folder/autograd
    pytest_part formats $folder/formats
    pytest_part nn $folder/nn
    pytest_part rsn2 tests/rsn2/test_{network,routing,checkpoint,on_a_gpu}.py tests/rsn2/{models,procedure}
    pytest_part device $folder/device
  fi
  slow=""
}

# pytest_part NAME ARGUMENTS...: tests whose tensors are on the device, in a process of their own.
pytest_part() {
  local name=$1 device=cuda; shift
  [ -n "$dry" ] && device=cpu
  part "pytest-$name" 560 "$python" -m pytest -q --device $device --maxfail=20 -p no:cacheprovider \
    -W default::UserWarning "$@"  # torch warns of what only GPUs do
}

gates() { python_part gates 300 bench.gpu.gates --out "$out/gates.jsonl" --seed "$(seed)"; }

bench() {
  python_part bench 560 bench.gpu.bench --out "$out/bench.jsonl" || return
  local backend=triton
  [ -n "$dry" ] && backend=reference
  if has_backend $backend; then
    export RSN2_BACKEND=$backend
    python_part bench-$backend 120 bench.gpu.bench --out "$out/bench.jsonl" --blocks C \
      --filter '=(4096x4096|14336x4096) density=0.1 rows=(1|64|1024) '
    unset RSN2_BACKEND
  else
    absent bench-$backend "$(why_no_backend $backend)"
  fi
}

# Runs a sanitizer: what one of its logs has said stays said, also when the time was up, and what was checked under it is
# not checked again.
sanitized='
  said() { cat "$0".*.log 2>/dev/null | grep -E "^=+ (Invalid|Uninitialized|Misaligned|Error|Barrier|Warning: Race)|SUMMARY: [1-9]"; }
  said && exit 1
  "$@"; code=$?
  cat "$0".*.log 2>/dev/null  # also what it says where it cannot run at all
  said && exit 1
  exit $code'

sanitize() {
  local tool backend names log
  if [ -n "$dry" ]; then
    python_part sanitize-dry 60 bench.gpu.check --backend "$(backends)" --out "$out/tiny.jsonl" --tiny --seed 1
    rm -f "$out/tiny.jsonl"
    return
  fi
  if ! command -v compute-sanitizer >/dev/null; then absent sanitize "compute-sanitizer is not installed"; return; fi
  excuse="Device not supported" slow=yes
  for backend in $(backends); do
    has_backend "$backend" || { absent "sanitize-$backend" "$(why_no_backend "$backend")"; continue; }
    names=(--kernel-name kernel_substring=rsn2)
    if [ "$backend" = triton ]; then
      names=(--kernel-name kernel_substring=forward_ --kernel-name kernel_substring=grad_)
    fi
    for tool in memcheck racecheck synccheck initcheck; do
      log="$out/sanitize-$backend-$tool"
      [ -z "$retry" ] || rm -f "$log".*
      # Only our kernels are watched: torch's own would take most of the time. Every allocation by itself, so that a
      # step beyond one is seen.
      part "sanitize-$backend-$tool" 140 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 RSN2_BACKEND="$backend" \
        bash -c "$sanitized" "$log" \
        compute-sanitizer --tool $tool --error-exitcode 1 --report-api-errors no --log-file "$log.%p.log" \
        "${names[@]}" \
        "$python" -m bench.gpu.check --backend "$backend" --out "$log.jsonl" --tiny --seed 1
    done
  done
  excuse="" slow=""
}

run() {
  end=$((SECONDS + limit))
  echo "===== $1"
  case $1 in
    build) build ;;
    test) checks ;;
    gates) gates ;;
    bench) bench ;;
    sanitize) sanitize ;;
  esac
}

if [ "$stage" = all ]; then
  for one in build gates test sanitize bench; do
    run $one
    # Without kernels nothing that follows says anything.
    if [ $one = build ] && [ $status -ne 0 ]; then break; fi
  done
else
  run "$stage"
fi
"$python" -m bench.gpu.summary "$out" | tee "$out/summary.txt"
exit $status
