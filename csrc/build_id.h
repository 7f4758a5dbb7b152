// Says which build a binary comes from: the library answers with its own id, the Python module compares it with its.
#pragma once

#include "cpu/levels.h"

namespace rsn2 {
RSN2_API const char* library_build_id();
}
