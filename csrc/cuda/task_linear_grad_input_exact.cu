#include "grad_kernels.h"

namespace rsn2 {

void launch_grad_input(const Launch& where, const GradInputExact<float>::Arguments& arguments) {
  launch<GradInputExact<float>>(where, arguments);
}
void launch_grad_input(const Launch& where, const GradInputExact<double>::Arguments& arguments) {
  launch<GradInputExact<double>>(where, arguments);
}

}  // namespace rsn2
