// Clients that ask without a pause while replicas come and go, and the proof that they lost nothing.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "tests/e2e/fixture.h"

namespace forge::e2e {

/// Threads that call Faulty::record, each time with another value. They stop with the object.
class Recorders {
 public:
  /// So many of them call in a session of their own.
  Recorders(const Service& service, const Tally& tally, std::size_t sessions)
      : service_(service), tally_(tally) {
    for (std::size_t client = 0; client < seen_.size(); ++client) {
      auto record = service.endpoint<Record>("record");
      const std::string session = "of " + std::to_string(client);
      if (client < sessions) record = record.with({.sess_id = session});
      threads_.emplace_back([this, record, &seen = seen_[client]] { run(record, seen); });
    }
  }
  Recorders(const Recorders&) = delete;
  Recorders& operator=(const Recorders&) = delete;
  ~Recorders() { stop(); }

  /// Stops them. Every call was answered, and ran once in each process of one replica.
  void expect_nothing_lost(int procs) {
    stop();
    std::size_t answered = 0;
    for (const Outcomes& outcome : seen_) {
      EXPECT_EQ(outcome.size(), 1U);
      answered += outcome.at("ok");
    }
    const auto counts = tally_.counts();
    EXPECT_EQ(counts.size(), answered);
    for (const auto& [value, times] : counts) ASSERT_EQ(times, procs) << value;
    const ServiceCounters survived = service_.counters();
    EXPECT_EQ(survived.replays + survived.retries + survived.refused, 0U) << "nothing was cut off";
  }

 private:
  using Record = void(const std::string&, std::int64_t);

  void run(const Endpoint<Record>& record, Outcomes& seen) {
    do {  // once at least, however late the thread begins
      std::vector<Future<void>> futures;
      for (int i = 0; i < 20; ++i) futures.push_back(record.route(tally_.path(), ++last_));
      for (const auto& [what, count] : outcomes(futures)) seen[what] += count;
    } while (!done_);
  }
  void stop() {
    done_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  const Service& service_;
  const Tally& tally_;
  std::atomic<bool> done_{false};
  std::atomic<std::int64_t> last_{0};
  std::array<Outcomes, 3> seen_;  // each its thread's, until that has ended
  std::vector<std::thread> threads_;
};

}  // namespace forge::e2e
