// A function with a stack of its own that can be left and resumed.
#pragma once

#include <functional>

namespace rsn2::emulator {

class Fiber {
 public:
  explicit Fiber(std::function<void()> body);  // which must not throw
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void resume();        // runs the body until it yields or ends
  static void yield();  // back to whoever resumed

 private:
  struct State;
  State* state_;
};

}  // namespace rsn2::emulator
