#include "dense_kernels.h"

namespace rsn2 {

void launch_unpack_slot(const Launch& where, const UnpackSlot<float, float>::Arguments& arguments) {
  launch<UnpackSlot<float, float>>(where, arguments);
}
void launch_unpack_slot(const Launch& where, const UnpackSlot<BFloat16, BFloat16>::Arguments& arguments) {
  launch<UnpackSlot<BFloat16, BFloat16>>(where, arguments);
}
void launch_unpack_slot(const Launch& where, const UnpackSlot<BFloat16, float>::Arguments& arguments) {
  launch<UnpackSlot<BFloat16, float>>(where, arguments);
}
void launch_unpack_slot(const Launch& where, const UnpackSlot<Float16, Float16>::Arguments& arguments) {
  launch<UnpackSlot<Float16, Float16>>(where, arguments);
}
void launch_unpack_slot(const Launch& where, const UnpackSlot<Float16, float>::Arguments& arguments) {
  launch<UnpackSlot<Float16, float>>(where, arguments);
}
void launch_compress_grads(const Launch& where, const CompressGrads<float>::Arguments& arguments) {
  launch<CompressGrads<float>>(where, arguments);
}
void launch_compress_grads(const Launch& where, const CompressGrads<BFloat16>::Arguments& arguments) {
  launch<CompressGrads<BFloat16>>(where, arguments);
}
void launch_compress_grads(const Launch& where, const CompressGrads<Float16>::Arguments& arguments) {
  launch<CompressGrads<Float16>>(where, arguments);
}
void launch_positive_part(const Launch& where, const PositivePart<float>::Arguments& arguments) {
  launch<PositivePart<float>>(where, arguments);
}
void launch_positive_part(const Launch& where, const PositivePart<BFloat16>::Arguments& arguments) {
  launch<PositivePart<BFloat16>>(where, arguments);
}
void launch_positive_part(const Launch& where, const PositivePart<Float16>::Arguments& arguments) {
  launch<PositivePart<Float16>>(where, arguments);
}

}  // namespace rsn2
