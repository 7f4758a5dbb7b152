// The kernels beside the BLAS as host code calls them; they are defined in task_linear_dense_kernel.cu.
#pragma once

#include "../device/task_linear_dense.h"
#include "launch.h"

namespace rsn2 {

void launch_unpack_slot(const Launch&, const UnpackSlot<float, float>::Arguments&);
void launch_unpack_slot(const Launch&, const UnpackSlot<BFloat16, BFloat16>::Arguments&);
void launch_unpack_slot(const Launch&, const UnpackSlot<BFloat16, float>::Arguments&);
void launch_unpack_slot(const Launch&, const UnpackSlot<Float16, Float16>::Arguments&);
void launch_unpack_slot(const Launch&, const UnpackSlot<Float16, float>::Arguments&);

void launch_compress_grads(const Launch&, const CompressGrads<float>::Arguments&);
void launch_compress_grads(const Launch&, const CompressGrads<BFloat16>::Arguments&);
void launch_compress_grads(const Launch&, const CompressGrads<Float16>::Arguments&);

void launch_positive_part(const Launch&, const PositivePart<float>::Arguments&);
void launch_positive_part(const Launch&, const PositivePart<BFloat16>::Arguments&);
void launch_positive_part(const Launch&, const PositivePart<Float16>::Arguments&);

}  // namespace rsn2
