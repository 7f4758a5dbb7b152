// Detection, choice and forcing of the instruction set level. Compiled for the plainest machine.
#include "levels.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace rsn2 {

extern const CpuKernels kernels_portable;
#if defined(__x86_64__)
extern const CpuKernels kernels_avx2;
extern const CpuKernels kernels_avx512;
#endif

namespace {

bool always() { return true; }

#if defined(__x86_64__)
// Everything the level's compiler flags allow; __builtin_cpu_supports also asks whether the system saves the registers.
bool has_avx2() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  // Old versions of Clang do not know the name "f16c".
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("popcnt");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

struct Level {
  const char* name;
  bool (*available)();
  const CpuKernels* kernels;
};

const Level LEVELS[] = {
    {"portable", always, &kernels_portable},
#if defined(__x86_64__)
    {"avx2", has_avx2, &kernels_avx2},
    {"avx512", has_avx512, &kernels_avx512},
#endif
};
constexpr int NUM_LEVELS = sizeof(LEVELS) / sizeof(LEVELS[0]);

std::string available_names() {
  std::string names;
  for (const Level& level : LEVELS) {
    if (level.available()) names += (names.empty() ? "" : ", ") + std::string(level.name);
  }
  return names;
}

int level_named(const char* name, const char* who) {
  for (int i = 0; i < NUM_LEVELS; ++i) {
    if (std::strcmp(LEVELS[i].name, name) != 0) continue;
    if (LEVELS[i].available()) return i;
    throw std::invalid_argument(std::string(who) + ": this machine cannot run the CPU level '" + name +
                                "'; it has: " + available_names());
  }
  throw std::invalid_argument(std::string(who) + ": no CPU level is called '" + name +
                              "'; this machine has: " + available_names());
}

int initial_level() {
  const char* forced = std::getenv("RSN2_CPU");
  if (forced != nullptr && *forced != '\0') return level_named(forced, "RSN2_CPU");
  int best = 0;
  for (int i = 0; i < NUM_LEVELS; ++i) {
    if (LEVELS[i].available()) best = i;
  }
  return best;
}

std::atomic<int>& current_level() {
  static std::atomic<int> level{initial_level()};  // a throw leaves it unset, so every later use throws again
  return level;
}

}  // namespace

const CpuKernels& cpu_kernels() { return *LEVELS[cpu_level()].kernels; }

int num_cpu_levels() { return NUM_LEVELS; }
const char* cpu_level_name(int level) { return LEVELS[level].name; }
bool cpu_level_available(int level) { return LEVELS[level].available(); }
int cpu_level() { return current_level().load(std::memory_order_relaxed); }

void set_cpu_level(const char* name) {
  const int level = level_named(name, "set_cpu_level");
  current_level().store(level, std::memory_order_relaxed);
}

}  // namespace rsn2
