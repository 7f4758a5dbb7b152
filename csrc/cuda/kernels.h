// The kernels as host code calls them; each is defined in the .cu file of its op.
#pragma once

#include "../device/plan.h"
#include "launch.h"

namespace rsn2 {

void launch_plan(const Launch& where, const Plan::Arguments& arguments);
int multiprocessors_of_device();

}  // namespace rsn2
