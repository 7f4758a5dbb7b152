// Positions that are not what they should be: read with care, refused with the right exception.
#include <limits>
#include <stdexcept>

#include "../cpu/task_conv2d_index.h"
#include "../cpu/task_linear_index.h"
#include "driver.h"

namespace rsn2::driver {
namespace {

// Whether it was refused. Any other exception is a failure.
template <class Make>
bool is_refused(const Make& make) {
  try {
    make();
    return false;
  } catch (const std::invalid_argument&) {
    return true;
  } catch (const std::exception& error) {
    expect(false, std::string("damaged positions are refused by: ") + error.what());
    return true;
  }
}

void make_conv2d_index(const Words<int64_t>& words) {
  const Positions positions = parse_positions("index", words.data.get(), words.size);
  ConvIndexBuilder builder("index", positions.T, positions.O, positions.K, 3, 3);
  for (int64_t t = 0; t < positions.T; ++t) {
    check_slot("index", positions, t, std::numeric_limits<int64_t>::max());
    builder.add_slot(t, positions.num_values(t),
                     [&](int64_t slot, const auto& visit) { for_each_owned("index", positions, slot, visit); });
  }
}

}  // namespace

int64_t check_damaged_positions(const std::vector<int64_t>& threads, bool is_small) {
  set_case("damaged positions");
  Random random(3);
  const Store store = random_store(random, F32, 4, 37, 9 * 31, 0.2, {2});
  const std::vector<int64_t> sound(store.positions.data.get(), store.positions.data.get() + store.positions.size);
  const int64_t num_cases = is_small ? 200 : 2000;
  int64_t num_refused = 0;
  for (int64_t i = 0; i < num_cases; ++i) {
    std::vector<int64_t> words = sound;
    const int64_t place =
        random.below(2) == 0 ? 4 + random.below(2 * (store.T + 1)) : random.below(store.positions.size);
    if (place >= 1 && place < 4) continue;  // T, O and K: matrices too large for this machine
    switch (random.below(4)) {
      case 0: words[place] ^= int64_t{1} << random.below(63); break;
      case 1: words[place] += random.below(9) - 4; break;
      case 2: words[place] = static_cast<int64_t>(random.bits()); break;
      default: words.resize(static_cast<size_t>(place)); break;
    }
    const Words<int64_t> damaged(words);
    const bool is_bad = is_refused([&] { make_conv2d_index(damaged); });
    num_refused += is_bad;
    for (const int64_t number : threads) {
      set_num_threads(number);
      const bool is_bad_here = is_refused(
          [&] { TaskLinearIndexBuilder builder(parse_positions("index", damaged.data.get(), damaged.size)); });
      expect(is_bad == is_bad_here, "one index is refused and the other is not");
    }
  }
  expect(num_refused > num_cases / 2, "hardly any damage was noticed");
  return num_cases;
}

}  // namespace rsn2::driver
