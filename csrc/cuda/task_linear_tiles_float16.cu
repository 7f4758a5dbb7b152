#include "task_linear_tiles.h"

namespace rsn2 {

template void launch_linear_tiles(void*, int64_t, const TaskLinear<Float16, Float16>&);
template void launch_linear_tiles(void*, int64_t, const TaskLinear<Float16, float>&);

}  // namespace rsn2
