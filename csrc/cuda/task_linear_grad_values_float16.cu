#include "grad_kernels.h"

namespace rsn2 {

void launch_grad_values(const Launch& where, const GradValuesTiles<Float16, Float16>::Arguments& arguments) {
  launch<GradValuesTiles<Float16, Float16>>(where, arguments);
}
void launch_grad_values(const Launch& where, const GradValuesTiles<Float16, float>::Arguments& arguments) {
  launch<GradValuesTiles<Float16, float>>(where, arguments);
}

}  // namespace rsn2
