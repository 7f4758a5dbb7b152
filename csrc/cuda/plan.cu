#include "kernels.h"

namespace rsn2 {

void launch_plan(const Launch& where, const Plan::Arguments& arguments) { launch<Plan>(where, arguments); }
int multiprocessors_of_device() { return num_multiprocessors(); }

}  // namespace rsn2
