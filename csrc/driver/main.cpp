// Runs the CPU kernels without torch. Exit status 1 when a result is wrong.
//
//   driver check [--small] [--levels portable,avx2] [--threads 1,2,5]
//   driver levels                                     those that this machine has
//   driver count linear|linear_grad_values|conv2d     one call, for callgrind; prints weights times vectors
#include <cstdio>
#include <cstring>
#include <sstream>

#include "../cpu/levels.h"
#include "driver.h"

namespace {

using namespace rsn2;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

int usage() {
  std::fprintf(stderr,
               "usage: driver check [--small] [--levels A,B] [--threads 1,2] | driver levels | driver count KERNEL\n");
  return 2;
}

std::vector<std::string> available_levels() {
  std::vector<std::string> levels;
  for (int level = 0; level < num_cpu_levels(); ++level) {
    if (cpu_level_available(level)) levels.emplace_back(cpu_level_name(level));
  }
  return levels;
}

int check(int argc, char** argv) {
  bool is_small = false;
  std::vector<int64_t> threads{1, 2, 5};
  std::vector<std::string> levels = available_levels();
  for (int i = 2; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--small") {
      is_small = true;
    } else if (option == "--levels" && i + 1 < argc) {
      levels = split(argv[++i]);
    } else if (option == "--threads" && i + 1 < argc) {
      threads.clear();
      for (const std::string& number : split(argv[++i])) threads.push_back(std::stoll(number));
    } else {
      return usage();
    }
  }
  for (const std::string& level : levels) {
    set_cpu_level(level.c_str());
    const auto run = [&](const char* name, int64_t (*what)(const std::vector<int64_t>&, bool)) {
      const int64_t before = driver::num_failures(), cases = what(threads, is_small);
      std::printf("%-9s %-8s %4lld cases, %lld failures\n", level.c_str(), name, static_cast<long long>(cases),
                  static_cast<long long>(driver::num_failures() - before));
      std::fflush(stdout);
    };
    if (level == levels.front()) run("damaged", driver::check_damaged_positions);
    run("segments", driver::check_segments);
    run("linear", driver::check_linear);
    run("conv2d", driver::check_conv2d);
  }
  return driver::num_failures() == 0 ? 0 : 1;
}

int count(const std::string& kernel) {
  double work = 0;
  if (kernel == "linear") {
    work = driver::count_linear();
  } else if (kernel == "linear_grad_values") {
    work = driver::count_linear_grad_values();
  } else if (kernel == "conv2d") {
    work = driver::count_conv2d();
  } else {
    return usage();
  }
  std::printf("%s %.17g\n", kernel.c_str(), work);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc >= 2 && std::strcmp(argv[1], "check") == 0) return check(argc, argv);
  if (argc == 2 && std::strcmp(argv[1], "levels") == 0) {
    for (const std::string& level : available_levels()) std::printf("%s\n", level.c_str());
    return 0;
  }
  if (argc == 3 && std::strcmp(argv[1], "count") == 0) return count(argv[2]);
  return usage();
}
