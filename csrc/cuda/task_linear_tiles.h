// launch_linear_tiles for 16-bit numbers; each type is compiled in a file of its own.
#pragma once

#include "../device/task_linear_tiles.h"

#include "task_linear_launch.h"

namespace rsn2 {

template <typename E, typename V>
void launch_linear_tiles(void* stream, int64_t most_tiles, const TaskLinear<E, V>& a) {
  switch (a.groups.tile_rows) {
    case 16: return launch_pieces<LinearTiles<E, V, 16>>(stream, most_tiles, a);
    case 32: return launch_pieces<LinearTiles<E, V, 32>>(stream, most_tiles, a);
    case 64: return launch_pieces<LinearTiles<E, V, 64>>(stream, most_tiles, a);
    case 128: return launch_pieces<LinearTiles<E, V, 128>>(stream, most_tiles, a);
    default: no_such_width(a.groups.tile_rows);
  }
}

}  // namespace rsn2
