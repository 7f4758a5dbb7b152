#include "fiber.h"

#include <stdint.h>
#include <ucontext.h>

#include <memory>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace rsn2::emulator {
namespace {

constexpr size_t STACK_BYTES = 256 * 1024;  // only what is touched costs memory

using Stack = std::unique_ptr<char[]>;
thread_local std::vector<Stack> spare_stacks;

Stack take_stack() {
  if (spare_stacks.empty()) return Stack(new char[STACK_BYTES]);
  Stack stack = std::move(spare_stacks.back());
  spare_stacks.pop_back();
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(stack.get(), STACK_BYTES);  // of a kernel that was given up
#endif
  return stack;
}

// The address sanitizer has to know on which stack a thread is.
struct Bounds {
  const void* bottom;
  size_t size;
};
#ifdef __SANITIZE_ADDRESS__
void leave_for(const Bounds& next) { __sanitizer_start_switch_fiber(nullptr, next.bottom, next.size); }
void arrive_from(Bounds* last) { __sanitizer_finish_switch_fiber(nullptr, &last->bottom, &last->size); }
#else
void leave_for(const Bounds&) {}
void arrive_from(Bounds*) {}
#endif

}  // namespace

#ifdef __x86_64__
// Saves the registers that a call preserves, and continues where another stack left off; a fifth of the time of
// swapcontext, which asks the system for the signal mask.
extern "C" void rsn2_switch_stack(void** save, void* load);
__asm__(
    ".text\n.globl rsn2_switch_stack\n.hidden rsn2_switch_stack\n.type rsn2_switch_stack, @function\n"
    "rsn2_switch_stack:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
    ".size rsn2_switch_stack, .-rsn2_switch_stack\n");
#endif

struct Fiber::State {
  std::function<void()> body;
  Stack stack;
  Bounds caller_bounds;
#ifdef __x86_64__
  void *own = nullptr, *caller = nullptr;
#else
  ucontext_t own, caller;
#endif
};

namespace {

thread_local void* running = nullptr;

}  // namespace

// Only Fiber's members know State, so that these are lambdas inside them.
Fiber::Fiber(std::function<void()> body) : state_(new State{std::move(body), take_stack(), {}, {}, {}}) {
  static void (*const main)() = [] {
    State* state = static_cast<State*>(running);
    arrive_from(&state->caller_bounds);
    state->body();
    Fiber::yield();  // for good
  };
#ifdef __x86_64__
  // As rsn2_switch_stack leaves a stack: six registers, then where to return to. There the stack must be as after a
  // call: 8 above a multiple of 16.
  const uintptr_t top = (reinterpret_cast<uintptr_t>(state_->stack.get()) + STACK_BYTES) / 16 * 16;
  void** stack = reinterpret_cast<void**>(top) - 8;
  for (int i = 0; i < 6; ++i) stack[i] = nullptr;
  stack[6] = reinterpret_cast<void*>(main);
  stack[7] = nullptr;
  state_->own = stack;
#else
  getcontext(&state_->own);
  state_->own.uc_stack.ss_sp = state_->stack.get();
  state_->own.uc_stack.ss_size = STACK_BYTES;
  state_->own.uc_link = nullptr;
  makecontext(&state_->own, main, 0);
#endif
}

Fiber::~Fiber() {
  spare_stacks.push_back(std::move(state_->stack));
  delete state_;
}

void Fiber::resume() {
  running = state_;
  leave_for({state_->stack.get(), STACK_BYTES});
#ifdef __x86_64__
  rsn2_switch_stack(&state_->caller, state_->own);
#else
  swapcontext(&state_->caller, &state_->own);
#endif
  Bounds own;
  arrive_from(&own);
}

void Fiber::yield() {
  State* state = static_cast<State*>(running);
  leave_for(state->caller_bounds);
#ifdef __x86_64__
  rsn2_switch_stack(&state->own, state->caller);
#else
  swapcontext(&state->own, &state->caller);
#endif
  arrive_from(&state->caller_bounds);
}

}  // namespace rsn2::emulator
