#include "grad_kernels.h"

namespace rsn2 {

void launch_sum_of_parts(const Launch& where, const SumOfParts<BFloat16, float>::Arguments& arguments) {
  launch<SumOfParts<BFloat16, float>>(where, arguments);
}
void launch_sum_of_parts(const Launch& where, const SumOfParts<Float16, float>::Arguments& arguments) {
  launch<SumOfParts<Float16, float>>(where, arguments);
}
void launch_sum_of_parts(const Launch& where, const SumOfParts<float, float>::Arguments& arguments) {
  launch<SumOfParts<float, float>>(where, arguments);
}
void launch_sum_of_parts(const Launch& where, const SumOfParts<double, double>::Arguments& arguments) {
  launch<SumOfParts<double, double>>(where, arguments);
}

}  // namespace rsn2
