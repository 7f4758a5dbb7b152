// The kernels as host code calls them; each is defined in the .cu file of its op.
#pragma once

#include "../device/plan.h"
#include "../device/task_linear_common.h"
#include "launch.h"

namespace rsn2 {

void launch_plan(const Launch& where, const Plan::Arguments& arguments);
void launch_slot_check(const Launch& where, const SlotCheck::Arguments& arguments);
int multiprocessors_of_device();

// task_linear. `most_tiles`: the groups have no more tiles. groups.tile_rows must be one that the kernel has.
constexpr int kLinearFewRows[] = {1, 4, 8};
constexpr int kLinearTilesRows[] = {16, 32, 64, 128};
constexpr int kLinearTf32Rows[] = {16, 32};
constexpr int kLinearWideRows[] = {32, 64};
template <typename E, typename V>
void launch_linear_few(void* stream, int64_t most_tiles, const TaskLinear<E, V>& arguments);
template <typename E, typename V>  // float32 is rounded to TF32
void launch_linear_tiles(void* stream, int64_t most_tiles, const TaskLinear<E, V>& arguments);
template <typename E>  // float64: 32 rows
void launch_linear_wide(void* stream, int64_t most_tiles, const TaskLinear<E, E>& arguments);
template <typename E, typename V>
void launch_linear_finish(void* stream, const typename LinearFinish<E, V>::Arguments& arguments);

}  // namespace rsn2
