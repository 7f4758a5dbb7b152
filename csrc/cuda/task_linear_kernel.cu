#include "../device/task_linear_wide.h"
#include "task_linear_launch.h"

namespace rsn2 {

template <>
void launch_linear_wide(void* stream, int64_t most_tiles, const TaskLinear<float, float>& a) {
  switch (a.groups.tile_rows) {
    case 32: return launch_pieces<LinearWide<float, 32>>(stream, most_tiles, a);
    case 64: return launch_pieces<LinearWide<float, 64>>(stream, most_tiles, a);
    default: no_such_width(a.groups.tile_rows);
  }
}

template <>
void launch_linear_wide(void* stream, int64_t most_tiles, const TaskLinear<double, double>& a) {
  if (a.groups.tile_rows != 32) no_such_width(a.groups.tile_rows);
  launch_pieces<LinearWide<double, 32>>(stream, most_tiles, a);
}

template <typename E, typename V>
void launch_linear_finish(void* stream, const typename LinearFinish<E, V>::Arguments& a) {
  using Kernel = LinearFinish<E, V>;
  const int64_t count = a.linear.groups.num_rows * a.linear.num_outputs;
  const int64_t blocks = least<int64_t>(ceil_div<int64_t>(count, Kernel::kThreads), 8 * num_multiprocessors());
  launch<Kernel>({blocks, 0, stream}, a);
}

template void launch_linear_finish<float, float>(void*, const LinearFinish<float, float>::Arguments&);
template void launch_linear_finish<double, double>(void*, const LinearFinish<double, double>::Arguments&);
template void launch_linear_finish<BFloat16, BFloat16>(void*, const LinearFinish<BFloat16, BFloat16>::Arguments&);
template void launch_linear_finish<BFloat16, float>(void*, const LinearFinish<BFloat16, float>::Arguments&);
template void launch_linear_finish<Float16, Float16>(void*, const LinearFinish<Float16, Float16>::Arguments&);
template void launch_linear_finish<Float16, float>(void*, const LinearFinish<Float16, float>::Arguments&);

}  // namespace rsn2
