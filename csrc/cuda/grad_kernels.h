// The kernels of the gradients as host code calls them; each is defined in the .cu file of its op.
#pragma once

#include "../device/grad_bias.h"
#include "../device/task_linear_grad_input_exact.h"
#include "../device/task_linear_grad_input_tiles.h"
#include "../device/task_linear_grad_values_exact.h"
#include "../device/task_linear_grad_values_tiles.h"
#include "launch.h"

namespace rsn2 {

void launch_grad_values(const Launch&, const GradValuesTiles<BFloat16, BFloat16>::Arguments&);
void launch_grad_values(const Launch&, const GradValuesTiles<BFloat16, float>::Arguments&);
void launch_grad_values(const Launch&, const GradValuesTiles<Float16, Float16>::Arguments&);
void launch_grad_values(const Launch&, const GradValuesTiles<Float16, float>::Arguments&);
void launch_grad_values(const Launch&, const GradValuesExact<float>::Arguments&);
void launch_grad_values(const Launch&, const GradValuesExact<double>::Arguments&);

void launch_grad_input(const Launch&, const GradInputTiles<BFloat16, BFloat16>::Arguments&);
void launch_grad_input(const Launch&, const GradInputTiles<BFloat16, float>::Arguments&);
void launch_grad_input(const Launch&, const GradInputTiles<Float16, Float16>::Arguments&);
void launch_grad_input(const Launch&, const GradInputTiles<Float16, float>::Arguments&);
void launch_grad_input(const Launch&, const GradInputExact<float>::Arguments&);
void launch_grad_input(const Launch&, const GradInputExact<double>::Arguments&);

void launch_sum_of_parts(const Launch&, const SumOfParts<BFloat16, float>::Arguments&);
void launch_sum_of_parts(const Launch&, const SumOfParts<Float16, float>::Arguments&);
void launch_sum_of_parts(const Launch&, const SumOfParts<float, float>::Arguments&);
void launch_sum_of_parts(const Launch&, const SumOfParts<double, double>::Arguments&);

void launch_grad_bias(const Launch&, const GradBias<BFloat16, false>::Arguments&);
void launch_grad_bias(const Launch&, const GradBias<BFloat16, true>::Arguments&);
void launch_grad_bias(const Launch&, const GradBias<Float16, false>::Arguments&);
void launch_grad_bias(const Launch&, const GradBias<Float16, true>::Arguments&);
void launch_grad_bias(const Launch&, const GradBias<float, false>::Arguments&);
void launch_grad_bias(const Launch&, const GradBias<float, true>::Arguments&);
void launch_grad_bias(const Launch&, const GradBias<double, false>::Arguments&);
void launch_grad_bias(const Launch&, const GradBias<double, true>::Arguments&);

}  // namespace rsn2
