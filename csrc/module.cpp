// The Python module rsn2_kernels._C: build facts, CPU levels, debug counters. The operators are in librsn2_cpu.so,
// which this module is linked to, so that importing it registers them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "build_id.h"
#include "cpu/counters.h"
#include "cpu/levels.h"
#include "cpu/task_conv2d_route.h"

namespace py = pybind11;

namespace {

std::vector<std::string> level_names(bool only_available) {
  std::vector<std::string> names;
  for (int level = 0; level < rsn2::num_cpu_levels(); ++level) {
    if (!only_available || rsn2::cpu_level_available(level)) names.emplace_back(rsn2::cpu_level_name(level));
  }
  return names;
}

std::map<std::string, std::pair<int64_t, int64_t>> debug_counters() {
  std::map<std::string, std::pair<int64_t, int64_t>> counters;
  rsn2::visit_counters(
      [](void* context, const char* op, int64_t num_calls, int64_t num_weights) {
        (*static_cast<decltype(counters)*>(context))[op] = {num_calls, num_weights};
      },
      &counters);
  return counters;
}

rsn2::ConvRoute route_named(const std::string& name) {
  if (name == "rule") return rsn2::CONV_BY_RULE;
  if (name == "sparse") return rsn2::CONV_SPARSE;
  if (name == "dense") return rsn2::CONV_DENSE;
  throw py::value_error("route must be 'rule', 'sparse' or 'dense', got '" + name + "'");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  if (std::strcmp(rsn2::library_build_id(), RSN2_BUILD_ID) != 0) {
    throw py::import_error("rsn2_kernels._C and librsn2_cpu.so come from different builds (" RSN2_BUILD_ID " and " +
                           std::string(rsn2::library_build_id()) + "); install rsn2-kernels again");
  }
  m.def(
      "build_info",
      [] {
        return std::map<std::string, std::string>{{"version", RSN2_VERSION},     {"commit", RSN2_COMMIT},
                                                  {"torch", RSN2_TORCH_VERSION}, {"python", PY_VERSION},
                                                  {"compiler", RSN2_COMPILER},   {"flags", RSN2_FLAGS},
                                                  {"cuda", RSN2_CUDA_FACTS},     {"build_id", RSN2_BUILD_ID}};
      },
      "What the native library was built from and with.");
  m.def("cpu_level", [] { return rsn2::cpu_level_name(rsn2::cpu_level()); }, "The CPU level in use.");
  m.def(
      "set_cpu_level", [](const std::string& name) { rsn2::set_cpu_level(name.c_str()); }, py::arg("name"),
      "Use another CPU level from now on; ValueError when unknown or when the machine lacks it.");
  m.def("available_cpu_levels", [] { return level_names(true); }, "Levels this machine can run, plainest first.");
  m.def("compiled_cpu_levels", [] { return level_names(false); }, "Levels in the library, plainest first.");
  m.def(
      "set_conv2d_route", [](const std::string& name) { rsn2::set_conv2d_route(route_named(name)); }, py::arg("name"),
      "For tests and measurements: 'rule' (the default), 'sparse', or 'dense' wherever it is able to; else "
      "ValueError.");
  m.def("debug_counters", &debug_counters, "For each op that has counted: (calls, weights read).");
  m.def("reset_debug_counters", &rsn2::reset_counters);
  m.def("set_counting", &rsn2::set_counting, py::arg("on"), "Starts as RSN2_DEBUG=1 says.");
  m.def("is_counting", &rsn2::is_counting);
}
