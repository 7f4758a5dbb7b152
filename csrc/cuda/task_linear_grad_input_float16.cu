#include "grad_kernels.h"

namespace rsn2 {

void launch_grad_input(const Launch& where, const GradInputTiles<Float16, Float16>::Arguments& arguments) {
  launch<GradInputTiles<Float16, Float16>>(where, arguments);
}
void launch_grad_input(const Launch& where, const GradInputTiles<Float16, float>::Arguments& arguments) {
  launch<GradInputTiles<Float16, float>>(where, arguments);
}

}  // namespace rsn2
