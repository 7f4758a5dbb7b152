// Which build librsn2_cuda.so comes from, for rsn2_kernels/_build.py, which loads it. Its kernels are registered beside
// their host sides in csrc/cuda/; the operators are defined by librsn2_cpu.so.
extern "C" __attribute__((visibility("default"))) const char* rsn2_cuda_build_id() { return RSN2_BUILD_ID; }
