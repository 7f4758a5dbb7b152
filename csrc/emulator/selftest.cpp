// Small kernels for tests/rsn2_kernels/cuda/test_platform.py: each shows what functions of platform.h do.
#include <string>

#include "../cuda/tensors.h"

namespace rsn2 {
namespace {

constexpr const char* OP = "selftest";

// One block of 64 threads writes out[i] = function(x[i]).
template <typename From, typename To, To (*function)(From)>
struct Each {
  struct Arguments {
    const From* x;
    To* out;
    int64_t size;
  };
  static constexpr int kThreads = 64;
  static void run(const Arguments& a) {
    for (int64_t i = thread_index(); i < a.size; i += kThreads) a.out[i] = function(a.x[i]);
  }
};

template <typename From, typename To, To (*function)(From)>
Tensor each(const Tensor& x, ScalarType dtype) {
  Tensor out = new_tensor(x, {x.numel()}, dtype);
  launch<Each<From, To, function>>(
      OnDevice(OP, "x", x).launch(1),
      {static_cast<const From*>(x.const_data_ptr()), static_cast<To*>(out.mutable_data_ptr()), x.numel()});
  return out;
}

float rounded_to_tf32(float x) { return float_of_bits(to_tf32(x)); }

Tensor convert(const Tensor& x, const std::string& to) {
  if (to == "bfloat16") return each<float, BFloat16, Convert<BFloat16, float>::from>(x, ScalarType::BFloat16);
  if (to == "float16") return each<float, Float16, Convert<Float16, float>::from>(x, ScalarType::Half);
  if (to == "tf32") return each<float, float, rounded_to_tf32>(x, ScalarType::Float);
  check_value(to == "float32", OP, ": unknown type ", to);
  if (x.scalar_type() == ScalarType::BFloat16) return each<BFloat16, float, to_float>(x, ScalarType::Float);
  return each<Float16, float, to_float>(x, ScalarType::Float);
}

// One warp: d[16, 16] += a[16, 16] b[16, 16], with b as it is in memory or as its transpose is.
template <typename E>
struct Product {
  struct Arguments {
    const uint16_t *a, *b;  // [16, 16]; b is [n, k], or [k, n] when it is to be transposed on the way
    float* d;               // [16, 16]
    bool transposes;
  };
  static constexpr int kThreads = kWarp;
  static constexpr int64_t kSharedBytes = 2 * 256 * sizeof(uint16_t);
  static void run(const Arguments& arguments) {
    uint16_t* a = reinterpret_cast<uint16_t*>(shared_memory());
    uint16_t* b = a + 256;
    for (int i = lane_index(); i < 256; i += kWarp) {
      a[i] = arguments.a[i];
      b[i] = arguments.b[i];
    }
    sync_warp();
    const int matrix = lane_index() / 8, row = lane_index() % 8, g = lane_index() / 4, q = lane_index() % 4;
    uint32_t left[4], right[4];
    load_matrices(a + (matrix % 2 * 8 + row) * 16 + matrix / 2 * 8, left);  // rows first, then columns
    if (arguments.transposes) {
      load_matrices_transposed(b + (matrix % 2 * 8 + row) * 16 + matrix / 2 * 8, right);
    } else {
      load_matrices(b + (matrix / 2 * 8 + row) * 16 + matrix % 2 * 8, right);
    }
    for (int n = 0; n < 2; ++n) {
      float d[4];
      for (int i = 0; i < 4; ++i) d[i] = at(arguments, g, q, n, i);
      multiply_16x8x16<E>(d, left, {right[2 * n], right[2 * n + 1]});
      for (int i = 0; i < 4; ++i) at(arguments, g, q, n, i) = d[i];
    }
  }
  static float& at(const Arguments& arguments, int g, int q, int n, int i) {
    return arguments.d[(g + i / 2 * 8) * 16 + n * 8 + 2 * q + i % 2];
  }
};

// One warp: d[16, 8] += a[16, 8] b[8, 8].
struct ProductTf32 {
  struct Arguments {
    const float *a, *b;
    float* d;
  };
  static constexpr int kThreads = kWarp;
  static void run(const Arguments& arguments) {
    const int g = lane_index() / 4, q = lane_index() % 4;
    const float* a = arguments.a;
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = arguments.d[(g + i / 2 * 8) * 8 + 2 * q + i % 2];
    multiply_16x8x8_tf32(d,
                         {to_tf32(a[g * 8 + q]), to_tf32(a[(g + 8) * 8 + q]), to_tf32(a[g * 8 + q + 4]),
                          to_tf32(a[(g + 8) * 8 + q + 4])},
                         {to_tf32(arguments.b[q * 8 + g]), to_tf32(arguments.b[(q + 4) * 8 + g])});
    for (int i = 0; i < 4; ++i) arguments.d[(g + i / 2 * 8) * 8 + 2 * q + i % 2] = d[i];
  }
};

void multiply(const Tensor& a, const Tensor& b, Tensor d, bool transposes) {
  const OnDevice device(OP, "a", a);
  float* sums = d.mutable_data_ptr<float>();
  if (a.scalar_type() == ScalarType::Float) {
    launch<ProductTf32>(device.launch(1), {a.const_data_ptr<float>(), b.const_data_ptr<float>(), sums});
    return;
  }
  const auto* left = static_cast<const uint16_t*>(a.const_data_ptr());
  const auto* right = static_cast<const uint16_t*>(b.const_data_ptr());
  const Launch where = device.launch(1, Product<Float16>::kSharedBytes);
  if (a.scalar_type() == ScalarType::Half) {
    launch<Product<Float16>>(where, {left, right, sums, transposes});
  } else {
    launch<Product<BFloat16>>(where, {left, right, sums, transposes});
  }
}

// Two warps; thread i calls a warp function with x[i] and with its own argument.
template <typename T>
struct OfWarp {
  struct Arguments {
    const T* x;
    const int64_t* arguments;
    T* out;
    const std::string* what;
  };
  static constexpr int kThreads = 2 * kWarp;
  static void run(const Arguments& a) {
    const T x = a.x[thread_index()];
    const int argument = int(a.arguments[thread_index()]);
    T& out = a.out[thread_index()];
    if (*a.what == "shuffle") out = shuffle(x, argument);
    if (*a.what == "shuffle_xor") out = shuffle_xor(x, argument);
    if (*a.what == "shuffle_up") out = shuffle_up(x, argument);
    if (*a.what == "sum_of_warp") out = sum_of_warp(x);
    if (*a.what == "ballot") out = T(ballot(x != 0));
    if (*a.what == "match_any") out = T(match_any(uint32_t(x)));
    if (*a.what == "count_bits") out = T(count_bits(uint32_t(x)));
    if (*a.what == "lowest_bit") out = T(lowest_bit(uint32_t(x)));
  }
};

Tensor of_warp(const Tensor& x, const Tensor& arguments, const std::string& what) {
  Tensor out = new_tensor(x, {x.numel()}, x.scalar_type());
  const Launch where = OnDevice(OP, "x", x).launch(1);
  const int64_t* numbers = arguments.const_data_ptr<int64_t>();
  if (x.scalar_type() == ScalarType::Double) {
    launch<OfWarp<double>>(where, {x.const_data_ptr<double>(), numbers, out.mutable_data_ptr<double>(), &what});
  } else {
    launch<OfWarp<int64_t>>(where, {x.const_data_ptr<int64_t>(), numbers, out.mutable_data_ptr<int64_t>(), &what});
  }
  return out;
}

// One warp copies x[2, 32, 4] in two groups and notes what its shared memory holds at once, when at most one group is
// on its way, and when none is: out[3, 2, 32, 4].
struct Copies {
  struct Arguments {
    const int32_t* x;
    const int32_t* is_there;  // [2, 32]
    int32_t* out;
  };
  static constexpr int kThreads = kWarp;
  static constexpr int64_t kSharedBytes = 2 * kWarp * 16;
  static void run(const Arguments& a) {
    int32_t* shared = reinterpret_cast<int32_t*>(shared_memory());
    for (int group = 0; group < 2; ++group) {
      const int at = group * kWarp + lane_index();
      copy_async(shared + 4 * at, a.x + 4 * at, a.is_there[at] != 0);
      commit_copies();
    }
    note(a, shared, 0);
    wait_for_copies<1>();
    note(a, shared, 1);
    wait_for_copies<0>();
    note(a, shared, 2);
  }
  static void note(const Arguments& a, const int32_t* shared, int when) {
    for (int i = 0; i < 8; ++i) {
      const int at = (i / 4 * kWarp + lane_index()) * 4 + i % 4;
      a.out[when * 8 * kWarp + at] = shared[at];
    }
  }
};

Tensor copies(const Tensor& x, const Tensor& is_there) {
  Tensor out = new_tensor(x, {3, 2, kWarp, 4}, ScalarType::Int);
  launch<Copies>(OnDevice(OP, "x", x).launch(1, Copies::kSharedBytes),
                 {x.const_data_ptr<int32_t>(), is_there.const_data_ptr<int32_t>(), out.mutable_data_ptr<int32_t>()});
  return out;
}

// 64 threads reverse 64 numbers through shared memory, and forget the barrier when asked to.
struct Reverse {
  struct Arguments {
    const int32_t* x;
    int32_t* out;
    bool has_barrier;
  };
  static constexpr int kThreads = 2 * kWarp;
  static void run(const Arguments& a) {
    int32_t* shared = reinterpret_cast<int32_t*>(shared_memory());
    shared[thread_index()] = a.x[thread_index()];
    if (a.has_barrier) sync_threads();
    a.out[thread_index()] = shared[kThreads - 1 - thread_index()];
  }
};

Tensor reverse(const Tensor& x, bool has_barrier) {
  Tensor out = new_tensor(x, {x.numel()}, ScalarType::Int);
  launch<Reverse>(OnDevice(OP, "x", x).launch(1, Reverse::kThreads * sizeof(int32_t)),
                  {x.const_data_ptr<int32_t>(), out.mutable_data_ptr<int32_t>(), has_barrier});
  return out;
}

// Who each thread is: thread, threads, block, blocks, lane, warp, and its place in a count that the block shares.
struct Places {
  struct Arguments {
    int64_t* out;  // [blocks, 64, 7]
  };
  static constexpr int kThreads = 2 * kWarp;
  static void run(const Arguments& a) {
    int* count = reinterpret_cast<int*>(shared_memory());
    const bool was_filled = *count == -1;
    sync_threads();
    if (thread_index() == 0) *count = was_filled ? 0 : 1000;
    sync_threads();
    int64_t* out = a.out + (block_index() * num_threads() + thread_index()) * 7;
    const int64_t all[] = {thread_index(), num_threads(), block_index(), num_blocks(), lane_index(), warp_index()};
    for (int i = 0; i < 6; ++i) out[i] = all[i];
    out[6] = atomic_add_shared(count, 1);
  }
};

Tensor places(const Tensor& like, int64_t num_blocks, int64_t shared_bytes) {
  const int64_t most_blocks = num_blocks < 0 || num_blocks > 1000 ? 0 : num_blocks;  // too many must fail, not allocate
  Tensor out = new_tensor(like, {most_blocks, Places::kThreads, 7}, ScalarType::Long);
  launch<Places>(OnDevice(OP, "like", like).launch(num_blocks, shared_bytes), {out.mutable_data_ptr<int64_t>()});
  return out;
}

// What a GPU would hang or trap at, or pass over in silence.
struct Fault {
  struct Arguments {
    const std::string* what;
  };
  static constexpr int kThreads = 2 * kWarp;
  static void run(const Arguments& a) {
    char* shared = shared_memory();
    alignas(16) static const char some[32] = {};
    if (*a.what == "ends_before_barrier" && thread_index() != 3) sync_threads();
    if (*a.what == "waits_elsewhere") warp_index() == 0 && lane_index() < 5 ? sync_warp() : sync_threads();
    if (*a.what == "different_functions") lane_index() % 2 ? shuffle(1, 0) : int(shuffle(1.0, 0));
    if (*a.what == "unaligned_copy") copy_async(shared + 8, some, true);
    if (*a.what == "unaligned_source") copy_async(shared, some + 4, true);
    if (*a.what == "unaligned_matrix") {
      uint32_t out[4];
      load_matrices(shared + 2, out);
    }
    if (*a.what == "copy_not_waited_for") {
      copy_async(shared + 16 * (thread_index() % 4), some, true);
      commit_copies();
    }
    if (*a.what == "copy_not_committed") copy_async(shared + 16 * (thread_index() % 4), some, true);
    if (*a.what == "fails" && thread_index() == 40) fail("words of the kernel");
    if (*a.what == "beyond_shared_memory" && thread_index() == 0) *reinterpret_cast<volatile char*>(shared + 100) = 1;
  }
};

void fault(const Tensor& like, const std::string& what) {
  launch<Fault>(OnDevice(OP, "like", like).launch(2, 100), {&what});
}

}  // namespace
}  // namespace rsn2

STABLE_TORCH_LIBRARY_FRAGMENT(rsn2_emulated, m) {
  m.def("selftest_convert(Tensor x, str to) -> Tensor");
  m.def("selftest_multiply(Tensor a, Tensor b, Tensor(a!) d, bool transposes) -> ()");
  m.def("selftest_of_warp(Tensor x, Tensor arguments, str what) -> Tensor");
  m.def("selftest_copies(Tensor x, Tensor is_there) -> Tensor");
  m.def("selftest_reverse(Tensor x, bool has_barrier) -> Tensor");
  m.def("selftest_places(Tensor like, int num_blocks, int shared_bytes) -> Tensor");
  m.def("selftest_fault(Tensor like, str what) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(rsn2_emulated, CPU, m) {
  m.impl("selftest_convert", TORCH_BOX(&rsn2::convert));
  m.impl("selftest_multiply", TORCH_BOX(&rsn2::multiply));
  m.impl("selftest_of_warp", TORCH_BOX(&rsn2::of_warp));
  m.impl("selftest_copies", TORCH_BOX(&rsn2::copies));
  m.impl("selftest_reverse", TORCH_BOX(&rsn2::reverse));
  m.impl("selftest_places", TORCH_BOX(&rsn2::places));
  m.impl("selftest_fault", TORCH_BOX(&rsn2::fault));
}
