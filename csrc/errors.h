// How host code says what was wanted and what came.
//
// Across torch.ops std::invalid_argument arrives as ValueError, std::out_of_range as IndexError, anything else as
// RuntimeError. Throw only from the thread that entered the op: libtorch's parallel_for turns an exception thrown
// inside its loop into a RuntimeError and prints it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace rsn2 {

template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream text;
  ((text << parts), ...);
  return text.str();
}

template <class... Parts>
[[noreturn]] void throw_value_error(const Parts&... parts) {
  throw std::invalid_argument(message(parts...));
}

template <class... Parts>
void check_value(bool ok, const Parts&... parts) {
  if (!ok) throw_value_error(parts...);
}

}  // namespace rsn2
