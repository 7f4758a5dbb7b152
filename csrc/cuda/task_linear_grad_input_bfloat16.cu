#include "grad_kernels.h"

namespace rsn2 {

void launch_grad_input(const Launch& where, const GradInputTiles<BFloat16, BFloat16>::Arguments& arguments) {
  launch<GradInputTiles<BFloat16, BFloat16>>(where, arguments);
}
void launch_grad_input(const Launch& where, const GradInputTiles<BFloat16, float>::Arguments& arguments) {
  launch<GradInputTiles<BFloat16, float>>(where, arguments);
}

}  // namespace rsn2
