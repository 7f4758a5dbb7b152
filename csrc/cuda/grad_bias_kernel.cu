#include "grad_kernels.h"

namespace rsn2 {

void launch_grad_bias(const Launch& where, const GradBias<BFloat16, false>::Arguments& arguments) {
  launch<GradBias<BFloat16, false>>(where, arguments);
}
void launch_grad_bias(const Launch& where, const GradBias<BFloat16, true>::Arguments& arguments) {
  launch<GradBias<BFloat16, true>>(where, arguments);
}
void launch_grad_bias(const Launch& where, const GradBias<Float16, false>::Arguments& arguments) {
  launch<GradBias<Float16, false>>(where, arguments);
}
void launch_grad_bias(const Launch& where, const GradBias<Float16, true>::Arguments& arguments) {
  launch<GradBias<Float16, true>>(where, arguments);
}
void launch_grad_bias(const Launch& where, const GradBias<float, false>::Arguments& arguments) {
  launch<GradBias<float, false>>(where, arguments);
}
void launch_grad_bias(const Launch& where, const GradBias<float, true>::Arguments& arguments) {
  launch<GradBias<float, true>>(where, arguments);
}
void launch_grad_bias(const Launch& where, const GradBias<double, false>::Arguments& arguments) {
  launch<GradBias<double, false>>(where, arguments);
}
void launch_grad_bias(const Launch& where, const GradBias<double, true>::Arguments& arguments) {
  launch<GradBias<double, true>>(where, arguments);
}

}  // namespace rsn2
