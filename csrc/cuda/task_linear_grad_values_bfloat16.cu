#include "grad_kernels.h"

namespace rsn2 {

void launch_grad_values(const Launch& where, const GradValuesTiles<BFloat16, BFloat16>::Arguments& arguments) {
  launch<GradValuesTiles<BFloat16, BFloat16>>(where, arguments);
}
void launch_grad_values(const Launch& where, const GradValuesTiles<BFloat16, float>::Arguments& arguments) {
  launch<GradValuesTiles<BFloat16, float>>(where, arguments);
}

}  // namespace rsn2
