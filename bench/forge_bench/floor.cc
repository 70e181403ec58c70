#include "bench/forge_bench/floor.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "bench/forge_bench/cpus.h"

namespace forge::bench {
namespace {

constexpr int kRounds = 5;
constexpr int kWarmUp = 200;                        // round trips that are not counted
constexpr std::int64_t kPatience = 10'000'000'000;  // ns a probe waits for its peer

[[noreturn]] void fail(const std::string& what, int error_number = 0) {
  throw std::runtime_error(
      "measuring the floor: " + what +
      (error_number == 0 ? "" : ": " + std::generic_category().message(error_number)));
}

/// Spins until `done`. Looks at the clock rarely: it must not be part of what is measured.
template <class Done>
void spin_until(Done done) {
  constexpr std::uint32_t kLooks = 1 << 20;
  std::int64_t give_up = 0;
  for (std::uint32_t looks = 1; !done(); ++looks) {
    if (looks % kLooks != 0) continue;
    const std::int64_t now = now_ns();
    if (give_up == 0) give_up = now + kPatience;
    if (now > give_up) fail("the second process does not answer; is its core taken?");
  }
}

/// Repeats a round trip for `seconds`, after a warm-up, and records each.
template <class RoundTrip>
void record_for(double seconds, Histogram& round_trips, int warm_up, RoundTrip round_trip) {
  const std::int64_t cost = clock_cost_ns();
  for (int i = 0; i < warm_up; ++i) round_trip();
  std::int64_t begin = now_ns();
  const std::int64_t end = begin + static_cast<std::int64_t>(seconds * 1e9);
  while (begin < end) {
    round_trip();
    const std::int64_t now = now_ns();
    round_trips.record(now - begin - cost);
    begin = now_ns();
  }
}

}  // namespace

std::uint64_t sum_words(std::span<const std::byte> bytes) {
  std::uint64_t sums[4] = {};  // independent, so that the additions overlap
  std::uint64_t words[4];
  std::size_t at = 0;
  for (; at + sizeof(words) <= bytes.size(); at += sizeof(words)) {
    std::memcpy(words, bytes.data() + at, sizeof(words));
    for (int i = 0; i < 4; ++i) sums[i] += words[i];
  }
  for (; at < bytes.size(); at += sizeof(words[0])) {
    words[0] = 0;
    std::memcpy(words, bytes.data() + at, std::min(sizeof(words[0]), bytes.size() - at));
    sums[0] += words[0];
  }
  return sums[0] + sums[1] + sums[2] + sums[3];
}

Floor::Floor(const FloorSpec& spec) : spec_(spec) {
  const std::size_t size = FloorMemory::size(spec_.slab_room);
  // Both processes write everywhere in it, unlike the engine's files: this is the bare case.
  auto made = shm::Segment::create({"forge-bench-floor", size, size, shm::Writer::peer});
  segment_ =
      shm::Segment::attach(shm::FileDescriptor(::dup(made.value().fd())), shm::Access::read_write)
          .value();
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) fail("socketpair", errno);
  const pid_t parent = ::getpid();
  peer_ = ::fork();
  if (peer_ < 0) fail("fork", errno);
  if (peer_ == 0) {
    // A segment is not inherited: the peer maps it anew.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(sockets[0]);
    if (::getppid() != parent) ::_exit(1);
    try {
      pin_to({spec_.far_cpu});
      auto mine =
          shm::Segment::attach(shm::FileDescriptor(::dup(segment_.fd())), shm::Access::read_write);
      mine->prefault(mine->size(), shm::Access::read_write);
      serve_floor(sockets[1], *reinterpret_cast<FloorMemory*>(mine->data()));
    } catch (const std::exception&) {
      ::_exit(1);  // the parent notices the closed socket
    }
    ::_exit(0);
  }
  ::close(sockets[1]);
  socket_ = sockets[0];
  segment_.prefault(segment_.size(), shm::Access::read_write);
  memory_ = reinterpret_cast<FloorMemory*>(segment_.data());
}

Floor::~Floor() {
  if (peer_ <= 0) return;
  ::kill(peer_, SIGKILL);  // it may be spinning, if a probe was given up
  ::close(socket_);
  while (::waitpid(peer_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Floor::use(const SlabShape& slab) {
  if (slab.bytes() > spec_.slab_room)
    throw std::runtime_error("the floor has no room for that slab");
  slab_ = slab;
  source_.assign(slab_.row_bytes, std::byte{1});
  target_.assign(slab_.row_bytes, std::byte{0});
}

void Floor::start(FloorProbe probe) {
  memory_->line.store(0);
  for (shm::RingIndex* index : {&memory_->requests_tail, &memory_->requests_head,
                                &memory_->responses_tail, &memory_->responses_head}) {
    index->position.store(0);
  }
  memory_->request_bell.store(0);
  memory_->response_bell.store(0);
  const FloorCommand command{probe, slab_};
  if (::send(socket_, &command, sizeof(command), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(sizeof(command))) {
    fail("the second process has ended", errno);
  }
}

void Floor::finish() {
  char done;
  if (::read(socket_, &done, 1) != 1) fail("the second process has ended");
}

FloorFigures Floor::probe(double seconds) {
  const PinnedScope pinned(spec_.near_cpu);
  const double round = seconds / kRounds;
  Histogram line_trips, ring_trips, futex_trips;
  std::vector<double> ring_rates, slab_rates, memcpy_rates, shares;
  for (int i = 0; i < kRounds; ++i) {
    line(round * 0.1, line_trips);
    shares.push_back(core_share_of([&] {
      rings(round * 0.2, ring_trips);
      ring_rates.push_back(rings_rate(round * 0.2));
    }));
    futex(round * 0.3, futex_trips);
    shares.push_back(core_share_of([&] { slab_rates.push_back(slab_rate(round * 0.15)); }));
    memcpy_rates.push_back(memcpy_rate(round * 0.05));
  }
  FloorFigures figures;
  figures.line_rtt_ns = line_trips.percentile(0.5);
  figures.line_p99_ns = line_trips.percentile(0.99);
  figures.rings_rtt_ns = ring_trips.percentile(0.5);
  figures.rings_p99_ns = ring_trips.percentile(0.99);
  figures.rings_per_s = median(ring_rates);
  figures.futex_rtt_ns = futex_trips.percentile(0.5);
  figures.futex_p99_ns = futex_trips.percentile(0.99);
  figures.slab_gbps = median(slab_rates);
  figures.memcpy_gbps = median(memcpy_rates);
  figures.core_share = median(shares);
  return figures;
}

template <class Probe>
double Floor::core_share_of(Probe probe) {
  clockid_t peer_clock;
  if (const int refused = ::clock_getcpuclockid(peer_, &peer_clock); refused != 0) {
    fail("the second process has ended", refused);
  }
  const auto seconds = [](clockid_t clock) {
    timespec used{};
    ::clock_gettime(clock, &used);
    return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
  };
  const double wall = seconds(CLOCK_MONOTONIC);
  const double mine = seconds(CLOCK_THREAD_CPUTIME_ID);
  const double peers = seconds(peer_clock);
  probe();
  const double least =
      std::min(seconds(CLOCK_THREAD_CPUTIME_ID) - mine, seconds(peer_clock) - peers);
  return std::min(1.0, least / (seconds(CLOCK_MONOTONIC) - wall));
}

void Floor::line(double seconds, Histogram& round_trips) {
  start(FloorProbe::line);
  std::uint64_t value = 1;
  record_for(seconds, round_trips, kWarmUp, [&] {
    memory_->line.store(value, std::memory_order_release);
    spin_until([&] { return memory_->line.load(std::memory_order_acquire) == value + 1; });
    value += 2;
  });
  memory_->line.store(kFloorStop, std::memory_order_release);
  finish();
}

void Floor::rings(double seconds, Histogram& round_trips) {
  start(FloorProbe::rings);
  FloorRingProducer out(memory_->requests, kFloorSlots, memory_->requests_tail,
                        memory_->requests_head);
  FloorRingConsumer in(memory_->responses, kFloorSlots, memory_->responses_tail,
                       memory_->responses_head);
  FloorSlot slot{};
  record_for(seconds, round_trips, kWarmUp, [&] {
    ++slot.number;
    out.try_push(slot);  // one in flight: never full
    spin_until([&] { return in.ready(); });
    if (in.front()->number != slot.number) fail("a ring gave another slot than was sent");
    in.pop();
  });
  slot.number = kFloorStop;
  out.try_push(slot);
  finish();
}

double Floor::rings_rate(double seconds) {
  start(FloorProbe::rings_rate);
  FloorRingProducer out(memory_->requests, kFloorSlots, memory_->requests_tail,
                        memory_->requests_head);
  FloorSlot slot{};
  const auto push = [&](std::uint64_t number) {
    slot.number = number;
    spin_until([&] { return out.try_push(slot); });
  };
  const auto drained = [&] {
    spin_until([&] {
      return memory_->requests_head.position.load(std::memory_order_acquire) == out.position();
    });
  };
  for (int i = 0; i < kWarmUp; ++i) push(1);
  drained();
  constexpr int kBurst = 10'000;  // between looks at the clock
  std::uint64_t pushed = 0;
  const std::int64_t begin = now_ns();
  std::int64_t now = begin;
  for (; now < begin + static_cast<std::int64_t>(seconds * 1e9); now = now_ns()) {
    for (int i = 0; i < kBurst; ++i) push(++pushed);
  }
  drained();
  now = now_ns();
  push(kFloorStop);
  finish();
  return static_cast<double>(pushed) * 1e9 / static_cast<double>(now - begin);
}

void Floor::futex(double seconds, Histogram& round_trips) {
  start(FloorProbe::futex);
  std::uint32_t value = 0;
  record_for(seconds, round_trips, 5, [&] {
    const std::uint32_t before = value++;
    memory_->request_bell.store(value, std::memory_order_release);
    shm::futex_wake(memory_->request_bell, 1, shm::Scope::shared);
    const std::int64_t give_up = now_ns() + kPatience;
    while (memory_->response_bell.load(std::memory_order_acquire) != value) {
      const auto until = shm::SteadyTime(std::chrono::nanoseconds(give_up));
      shm::futex_wait(memory_->response_bell, before, until, shm::Scope::shared);
      if (now_ns() > give_up) fail("the second process does not wake up");
    }
  });
  memory_->request_bell.store(static_cast<std::uint32_t>(kFloorStop), std::memory_order_release);
  shm::futex_wake(memory_->request_bell, 1, shm::Scope::shared);
  finish();
}

double Floor::slab_rate(double seconds) {
  start(FloorProbe::slab);
  FloorRingProducer out(memory_->requests, kFloorSlots, memory_->requests_tail,
                        memory_->requests_head);
  FloorRingConsumer in(memory_->responses, kFloorSlots, memory_->responses_tail,
                       memory_->responses_head);
  FloorSlot slot{};
  const auto send = [&](std::uint64_t number) {
    std::byte* to = memory_->request_block(number, slab_);
    for (std::uint32_t row = 0; row < slab_.rows; ++row, to += slab_.row_bytes)
      std::memcpy(to, source_.data(), slab_.row_bytes);
    slot.number = number;
    out.try_push(slot);  // depth is below the ring's capacity: never full
  };
  const std::uint64_t expected = slab_.rows * sum_words(source_);
  std::uint64_t received = 0;
  const auto receive = [&] {
    spin_until([&] { return in.ready(); });
    const std::byte* block = memory_->response_block(in.front()->number, slab_);
    if (sum_words({block, slab_.block_bytes()}) != expected) fail("the slab gave other bytes back");
    in.pop();
    ++received;
  };
  std::uint64_t sent = 0;
  while (sent < slab_.depth) send(sent++);
  for (std::uint32_t i = 0; i < slab_.depth; ++i) {  // warm-up: every block once
    receive();
    send(sent++);
  }
  const std::uint64_t before = received;
  const std::int64_t begin = now_ns();
  std::int64_t now = begin;
  for (; now < begin + static_cast<std::int64_t>(seconds * 1e9); now = now_ns()) {
    receive();
    send(sent++);
  }
  const double blocks = static_cast<double>(received - before);
  while (received < sent) receive();
  slot.number = kFloorStop;
  out.try_push(slot);
  finish();
  return 2 * blocks * static_cast<double>(slab_.block_bytes()) / static_cast<double>(now - begin);
}

double Floor::memcpy_rate(double seconds) {
  double copies = 0;
  const std::int64_t begin = now_ns();
  std::int64_t now = begin;
  for (; now < begin + static_cast<std::int64_t>(seconds * 1e9); now = now_ns()) {
    std::memcpy(target_.data(), source_.data(), source_.size());
    asm volatile("" : : "r"(target_.data()) : "memory");  // the copy is wanted for itself
    ++copies;
  }
  return copies * static_cast<double>(source_.size()) / static_cast<double>(now - begin);
}

FloorFigures median(const std::vector<FloorFigures>& probes) {
  FloorFigures result;
  for (double FloorFigures::*figure :
       {&FloorFigures::line_rtt_ns, &FloorFigures::line_p99_ns, &FloorFigures::rings_rtt_ns,
        &FloorFigures::rings_p99_ns, &FloorFigures::rings_per_s, &FloorFigures::futex_rtt_ns,
        &FloorFigures::futex_p99_ns, &FloorFigures::slab_gbps, &FloorFigures::memcpy_gbps,
        &FloorFigures::core_share}) {
    std::vector<double> values;
    values.reserve(probes.size());
    for (const FloorFigures& probe : probes) values.push_back(probe.*figure);
    result.*figure = median(std::move(values));
  }
  return result;
}

}  // namespace forge::bench
