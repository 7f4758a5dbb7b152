#include "../device/task_linear_few.h"

#include "task_linear_launch.h"

namespace rsn2 {

template <typename E, typename V>
void launch_linear_few(void* stream, int64_t most_tiles, const TaskLinear<E, V>& a) {
  switch (a.groups.tile_rows) {
    case 1: return launch_pieces<LinearFew<E, V, 1>>(stream, most_tiles, a);
    case 4: return launch_pieces<LinearFew<E, V, 4>>(stream, most_tiles, a);
    case 8: return launch_pieces<LinearFew<E, V, 8>>(stream, most_tiles, a);
    default: no_such_width(a.groups.tile_rows);
  }
}

template void launch_linear_few(void*, int64_t, const TaskLinear<float, float>&);
template void launch_linear_few(void*, int64_t, const TaskLinear<BFloat16, BFloat16>&);
template void launch_linear_few(void*, int64_t, const TaskLinear<BFloat16, float>&);
template void launch_linear_few(void*, int64_t, const TaskLinear<Float16, Float16>&);
template void launch_linear_few(void*, int64_t, const TaskLinear<Float16, float>&);

}  // namespace rsn2
