// The CPU kernels at one instruction set level, and which level is in use.
//
// Included by the level files too, so nothing here may compile to code: declarations and plain structs only.
#pragma once

#include "task_conv2d.h"
#include "task_linear.h"

#define RSN2_API __attribute__((visibility("default")))

namespace rsn2 {

// What every level exports: one table, filled at compile time.
struct CpuKernels {
  TaskLinearKernels linear;
  TaskConv2dKernels conv2d;
};

// The kernels of the level in use: RSN2_CPU if set, else the best this machine has.
// Throws std::invalid_argument when RSN2_CPU names a level that is unknown or that the machine lacks.
const CpuKernels& cpu_kernels();

// For the Python module. Levels are ordered from the plainest to the widest.
RSN2_API int num_cpu_levels();  // levels compiled into this library
RSN2_API const char* cpu_level_name(int level);
RSN2_API bool cpu_level_available(int level);   // this machine can run it
RSN2_API int cpu_level();                       // the one in use
RSN2_API void set_cpu_level(const char* name);  // throws std::invalid_argument as cpu_kernels() does

}  // namespace rsn2
