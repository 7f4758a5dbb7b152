#include "../device/task_linear_tiles.h"
#include "task_linear_launch.h"

namespace rsn2 {

template <>
void launch_linear_tiles(void* stream, int64_t most_tiles, const TaskLinear<float, float>& a) {
  switch (a.groups.tile_rows) {
    case 16: return launch_pieces<LinearTiles<float, float, 16>>(stream, most_tiles, a);
    case 32: return launch_pieces<LinearTiles<float, float, 32>>(stream, most_tiles, a);
    default: no_such_width(a.groups.tile_rows);
  }
}

}  // namespace rsn2
