#include "grad_kernels.h"

namespace rsn2 {

void launch_grad_values(const Launch& where, const GradValuesExact<float>::Arguments& arguments) {
  launch<GradValuesExact<float>>(where, arguments);
}
void launch_grad_values(const Launch& where, const GradValuesExact<double>::Arguments& arguments) {
  launch<GradValuesExact<double>>(where, arguments);
}

}  // namespace rsn2
