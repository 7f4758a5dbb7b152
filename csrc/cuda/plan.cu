#include "kernels.h"

namespace rsn2 {

void launch_plan(const Launch& where, const Plan::Arguments& arguments) { launch<Plan>(where, arguments); }
void launch_slot_check(const Launch& where, const SlotCheck::Arguments& arguments) {
  launch<SlotCheck>(where, arguments);
}
int multiprocessors_of_device() { return num_multiprocessors(); }

}  // namespace rsn2
