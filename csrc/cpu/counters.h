// Debug counters, as the Python module sees them. host.h declares the side that counts.
#pragma once

#include <cstdint>

#include "levels.h"

namespace rsn2 {

// Calls visit(context, op, num_calls, num_weights_read) for each op that has counted since the last reset.
RSN2_API void visit_counters(void (*visit)(void*, const char*, int64_t, int64_t), void* context);
RSN2_API void reset_counters();
RSN2_API void set_counting(bool on);  // starts as RSN2_DEBUG=1 says
RSN2_API bool is_counting();

}  // namespace rsn2
