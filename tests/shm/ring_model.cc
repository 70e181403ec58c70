// Model-checks shm/ring.h as it ships: Relacy runs producer and consumer through the interleavings
// and the stale reads that the C++ memory model allows, and sees every access to a slot.
//
//   ring_model_test                        random and exhaustive search; both must find nothing
//   ring_model_test --weaken tail-store    the same ring with one memory order made relaxed: must fail
//                            tail-load     (or head-store, head-load), so that the proof has teeth
//
// Exit status: 0 nothing found, 1 Relacy found a fault, 2 wrong arguments.
// A fault is printed with its history; the iteration count and schedule are deterministic.

// Before Relacy, whose macros (new, delete, errno) no other header survives.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <string_view>
#include <type_traits>

#include <relacy/relacy.hpp>

#undef new
#undef delete
#undef malloc
#undef calloc
#undef realloc
#undef free
#undef assert

namespace forge_model {

// Everything of the standard library except atomics: names declared here hide those of std.
using namespace ::std;
using rl::memory_order;
using rl::mo_acquire;  // what Relacy's memory_order_* macros expand to
using rl::mo_relaxed;
using rl::mo_release;

/// Relacy's atomic, with orders that can be weakened per object.
template <typename T>
class atomic {
 public:
  T load(memory_order order, rl::debug_info_param where) const {
    return value_.load(relax_loads ? mo_relaxed : order, where);
  }
  void store(T value, memory_order order, rl::debug_info_param where) {
    value_.store(value, relax_stores ? mo_relaxed : order, where);
  }

  bool relax_loads = false;
  bool relax_stores = false;

 private:
  rl::atomic<T> value_;
};

}  // namespace forge_model

#define FORGE_MODEL_CHECK 1
#define std forge_model
#include "shm/ring.h"
#undef std

namespace {

using forge::shm::RingConsumer;
using forge::shm::RingIndex;
using forge::shm::RingProducer;

enum class Weakened { nothing, tail_store, tail_load, head_store, head_load };
Weakened weakened = Weakened::nothing;

/// A slot whose one plain field Relacy watches for data races.
struct Slot {
  Slot() = default;
  explicit Slot(unsigned number) { VAR(value) = number; }
  Slot& operator=(const Slot& other) {
    VAR(value) = VAR(other.value);
    return *this;
  }
  rl::var<unsigned> value;
};

constexpr std::uint64_t kCapacity = 2;

/// `kItems` numbers go through a ring of two slots; with more than two, slots are used again.
template <unsigned kItems>
class RingModel : public rl::test_suite<RingModel<kItems>, 2> {
 public:
  void before() {
    // Zero-filled memory, as a fresh memfd is; before() happens before both threads.
    tail_.position.store(0, rl::mo_relaxed, RL_INFO);
    head_.position.store(0, rl::mo_relaxed, RL_INFO);
    tail_.position.relax_stores = weakened == Weakened::tail_store;
    tail_.position.relax_loads = weakened == Weakened::tail_load;
    head_.position.relax_stores = weakened == Weakened::head_store;
    head_.position.relax_loads = weakened == Weakened::head_load;
  }

  void thread(unsigned index) { index == 0 ? produce() : consume(); }

  void after() {
    RL_ASSERT(producer_.position() == kItems && consumer_.position() == kItems);
    RL_ASSERT(!consumer_.ready());
    RL_ASSERT(producer_.room(kCapacity) == kCapacity);
  }

 private:
  /// By all three ways in: claim and publish, room for several, push.
  void produce() {
    unsigned number = 1;
    for (Slot* slot = producer_.try_claim(); number <= kItems; slot = producer_.try_claim()) {
      if (slot == nullptr) {
        rl::yield(1, RL_INFO);
        continue;
      }
      VAR(slot->value) = number++;
      producer_.publish();
      if (number + 1 > kItems) continue;
      while (producer_.room(2) < 2) rl::yield(1, RL_INFO);
      RL_ASSERT(producer_.try_push(Slot(number++)));
      RL_ASSERT(producer_.try_push(Slot(number++)));
    }
  }

  void consume() {
    for (unsigned expected = 1; expected <= kItems;) {
      const Slot* slot = consumer_.front();
      RL_ASSERT(!consumer_.corrupt());
      if (slot == nullptr) {
        rl::yield(1, RL_INFO);
        continue;
      }
      RL_ASSERT(VAR(slot->value) == expected);
      consumer_.pop();
      ++expected;
    }
  }

  Slot slots_[kCapacity];
  RingIndex tail_;
  RingIndex head_;
  RingProducer<Slot> producer_{slots_, kCapacity, tail_, head_};
  RingConsumer<Slot> consumer_{slots_, kCapacity, tail_, head_};
};

template <unsigned kItems>
bool holds(rl::scheduler_type_e search, rl::iteration_t iterations) {
  rl::test_params params;
  params.search_type = search;
  params.iteration_count = iterations;
  std::cout << rl::format(search) << ", " << kItems << " items" << std::endl;
  if (!rl::simulate<RingModel<kItems>>(params)) return false;
  if (search == rl::fair_full_search_scheduler_type && params.stop_iteration >= iterations) {
    std::cout << "the search is not exhaustive: allow more iterations or fewer items" << std::endl;
    return false;
  }
  return true;
}

bool parse(int argc, char** argv) {
  if (argc == 1) return true;
  if (argc != 3 || std::strcmp(argv[1], "--weaken") != 0) return false;
  const std::string_view what = argv[2];
  if (what == "tail-store") weakened = Weakened::tail_store;
  if (what == "tail-load") weakened = Weakened::tail_load;
  if (what == "head-store") weakened = Weakened::head_store;
  if (what == "head-load") weakened = Weakened::head_load;
  return weakened != Weakened::nothing;
}

}  // namespace

int main(int argc, char** argv) {
  if (!parse(argc, argv)) {
    std::cerr << "usage: ring_model_test [--weaken tail-store|tail-load|head-store|head-load]\n";
    return 2;
  }
  const bool good = holds<7>(rl::random_scheduler_type, 1'000'000) &&
                    holds<3>(rl::fair_full_search_scheduler_type, 10'000'000);
  std::cout << (good ? "no fault found" : "fault found") << std::endl;
  return good ? 0 : 1;
}
