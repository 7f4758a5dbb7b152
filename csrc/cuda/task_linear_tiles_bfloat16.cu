#include "task_linear_tiles.h"

namespace rsn2 {

template void launch_linear_tiles(void*, int64_t, const TaskLinear<BFloat16, BFloat16>&);
template void launch_linear_tiles(void*, int64_t, const TaskLinear<BFloat16, float>&);

}  // namespace rsn2
