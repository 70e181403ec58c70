// The load generator: closed-loop clients that know what every answer must be.
//
// Each client thread holds `inflight` futures, takes the oldest, checks it, and sends the next
// request. Every request has a number of its own; its answer must carry that number, so an answer
// that is lost, doubled or given to somebody else shows. Latency is measured per request, from
// before route() to after get().
#pragma once

#include <pthread.h>

#include <forge/error.h>
#include <forge/future.h>
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench/forge_bench/cpus.h"
#include "bench/forge_bench/stats.h"

namespace forge::bench {

struct LoadPlan {
  int clients = 1;
  int inflight = 1;
  double warmup_s = 0.3;
  double duration_s = 2;
  std::uint64_t requests = 0;  ///< of each client, after which it stops; 0: when time is up
  std::vector<int> cpus = {};  ///< of the client threads; empty: anywhere
  std::string title = {};      ///< shown on a terminal while it runs; empty: nothing is
};

struct LoadResult {
  Histogram latency;  ///< of answers in the measured time
  double seconds = 0;
  std::uint64_t sent = 0;                       ///< warm-up included
  std::uint64_t answered = 0;                   ///< with a value, the right one
  std::uint64_t wrong = 0;                      ///< with another value than its own
  std::map<std::string, std::uint64_t> errors;  ///< by code
  std::string first_error;

  std::uint64_t failed() const;
  double throughput() const { return static_cast<double>(latency.count()) / seconds; }
  /// Each request has one answer, and it is its own.
  bool answered_exactly_once() const { return wrong == 0 && failed() == 0 && answered == sent; }
  void merge(const LoadResult& other);
};

/// Ends the process if nobody makes progress for this long: futures that never complete are what
/// this program exists to find.
inline constexpr double kStallSeconds = 60;

namespace detail {

/// When the phases of a run begin, for all clients alike.
struct Phases {
  std::int64_t measured_ns;
  std::int64_t end_ns;
};

struct alignas(128) Progress {
  std::atomic<std::uint64_t> sent{0};  // written by one client, shown by the main thread
  std::atomic<std::uint64_t> done{0};
  std::atomic<bool> finished{false};
};

/// Errors in a row after which a client stops asking.
inline constexpr int kHopeless = 1000;

/// One client. `work` has `using Answer`, `Future<Answer> send(number)` and `bool check(number,
/// Answer&)`.
template <class Work>
void run_client(Work& work, std::uint64_t first_number, const LoadPlan& plan, const Phases& phases,
                Progress& progress, LoadResult& result) {
  using Answer = typename Work::Answer;
  const std::int64_t clock_cost = clock_cost_ns();
  struct Request {
    Future<Answer> future{nullptr, nullptr};
    std::uint64_t number = 0;
    std::int64_t begin = 0;
  };
  std::vector<Request> requests(static_cast<std::size_t>(plan.inflight));
  std::uint64_t next = first_number;
  const auto send = [&](Request& request, std::int64_t begin) {
    request.begin = begin;
    request.number = next++;
    progress.sent.store(++result.sent, std::memory_order_relaxed);
    request.future = work.send(request.number);
  };
  int failures = 0;  // in a row
  std::int64_t now = now_ns();
  const auto receive = [&](Request& request) {
    try {
      Answer answer = request.future.get();
      now = now_ns();
      failures = 0;
      if (now >= phases.measured_ns && now < phases.end_ns) {
        result.latency.record(now - request.begin - clock_cost);
      }
      ++(work.check(request.number, answer) ? result.answered : result.wrong);
    } catch (const Error& error) {
      now = now_ns();
      ++failures;
      if (result.first_error.empty()) result.first_error = error.what();
      ++result.errors[std::string(error.code())];
    }
    progress.done.store(progress.done.load(std::memory_order_relaxed) + 1,
                        std::memory_order_relaxed);
  };

  // With one in flight the clock is read anew for each request, so that checking is not part of it.
  const bool alone = plan.inflight == 1;
  const std::uint64_t most =
      plan.requests != 0 ? plan.requests : std::numeric_limits<std::uint64_t>::max();
  for (Request& request : requests) send(request, now_ns());
  for (std::size_t oldest = 0;; oldest = oldest + 1 == requests.size() ? 0 : oldest + 1) {
    receive(requests[oldest]);
    if (now >= phases.end_ns || result.sent >= most || failures >= kHopeless) {
      for (std::size_t i = 1; i < requests.size(); ++i) {
        receive(requests[(oldest + i) % requests.size()]);
      }
      return;
    }
    send(requests[oldest], alone ? now_ns() : now);
  }
}

/// Shows progress until all clients are through; ends the process when they are stuck.
void watch(const LoadPlan& plan, const Phases& phases, const std::vector<Progress>& progress);

}  // namespace detail

/// Runs the plan; `make_work(client)` gives each client its own Work. Throws what a client threw,
/// forge's errors aside.
template <class MakeWork>
LoadResult run_load(const LoadPlan& plan, MakeWork make_work) {
  using Work = std::invoke_result_t<MakeWork, int>;
  const auto clients = static_cast<std::size_t>(plan.clients);
  std::vector<detail::Progress> progress(clients);
  std::vector<std::unique_ptr<LoadResult>> results;
  std::vector<std::exception_ptr> failures(clients);
  clock_cost_ns();  // measured now, not inside the first request

  const auto ns = [](double seconds) { return static_cast<std::int64_t>(seconds * 1e9); };
  const std::int64_t begin = now_ns();
  const detail::Phases phases{begin + ns(plan.warmup_s),
                              begin + ns(plan.warmup_s + plan.duration_s)};
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < clients; ++i) {
    results.push_back(std::make_unique<LoadResult>());
    threads.emplace_back([&, i, result = results.back().get()] {
      try {
        if (!plan.cpus.empty()) pin_to(plan.cpus);
        Work work = make_work(static_cast<int>(i));
        detail::run_client(work, (std::uint64_t{i} << 40) + 1, plan, phases, progress[i], *result);
      } catch (...) {
        failures[i] = std::current_exception();
      }
      progress[i].finished.store(true, std::memory_order_release);
    });
  }
  detail::watch(plan, phases, progress);
  threads.clear();  // joins

  LoadResult total;
  for (std::size_t i = 0; i < clients; ++i) {
    if (failures[i]) std::rethrow_exception(failures[i]);
    total.merge(*results[i]);
  }
  total.seconds =
      std::min(plan.duration_s, static_cast<double>(now_ns() - phases.measured_ns) / 1e9);
  return total;
}

}  // namespace forge::bench
