// Chaos: answers what forge-bench chaos asks, tallies each execution outside of forge, and commits
// the faults it is told to.
#include <fcntl.h>
#include <forge/plugin.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "messages.h"
#include "scribble.h"
#include "tally.h"

namespace chaos {
namespace {

/// The tally, mapped for as long as the process lives.
Tally& map_tally(const std::string& path, std::size_t slots) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "cannot open " + path);
  void* const memory =
      ::mmap(nullptr, Tally::bytes(slots), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int error = errno;
  ::close(fd);
  if (memory == MAP_FAILED) {
    throw std::system_error(error, std::generic_category(), "cannot map " + path);
  }
  return *static_cast<Tally*>(memory);
}

std::int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * std::int64_t{1'000'000'000} + now.tv_nsec;
}

void segfault() {
  // A page that may not be touched: undefined for the hardware only, so sanitizers let it happen.
  void* const page = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *static_cast<volatile char*>(page) = 1;
}

void count_first(std::atomic<std::uint64_t>& count, std::atomic<std::uint64_t>& first,
                 std::uint64_t number) {
  if (count.fetch_add(1) == 0) first.store(number);
}

class Chaos : public forge::ForgeActor {
 public:
  Chaos(const std::string& tally, std::uint64_t slots)
      : tally_(map_tally(tally, slots)), slots_(slots) {}

  Answer ask(const Question& question) {
    begin(question.slot);
    check(question);
    linger(question.number);
    commit(1);
    return finish(question, question.slot);
  }
  /// Each replica has a slot of its own, behind that of the question.
  Answer ask_all(const Question& question) {
    const std::uint64_t slot = question.slot + replica();
    begin(slot);
    check(question);
    linger(question.number);
    commit(1);
    return finish(question, slot);
  }
  forge::Task<Answer> ask_later(Question question) {
    begin(question.slot);
    check(question);
    co_await linger_later(question.number);
    commit(1);
    co_return finish(question, question.slot);
  }
  forge::Task<Answer> ask_all_later(Question question) {
    const std::uint64_t slot = question.slot + replica();
    begin(slot);
    check(question);
    co_await linger_later(question.number);
    commit(1);
    co_return finish(question, slot);
  }
  std::vector<Answer> ask_batch(const std::vector<Question>& questions) {
    for (const Question& question : questions) begin(question.slot);
    std::vector<Answer> answers;
    answers.reserve(questions.size());
    for (const Question& question : questions) {
      check(question);
      linger(question.number);
      commit(1);
      answers.push_back(finish(question, question.slot));
    }
    return answers;
  }
  forge::Tensor ask_tensor(const forge::Tensor& tensor) {
    const auto words = std::as_const(tensor).span<std::uint64_t>();
    const std::uint64_t number = words[0];
    begin(words[1]);
    if (!matches(words.subspan(kTensorHead), number)) garbled(number);
    linger(number);
    commit(1);
    forge::Tensor answer = forge::context().allocate(tensor.dtype(), tensor.shape());
    const auto out = answer.span<std::uint64_t>();
    out[0] = number;
    out[1] = words[1];
    fill(out.subspan(kTensorHead), answer_to(number));
    end(words[1]);
    return answer;
  }

 private:
  static std::size_t replica() { return static_cast<std::size_t>(forge::context().replica()); }

  /// Ranks in lockstep execute as one.
  static bool tallies() { return forge::context().rank() == 0; }

  Executions& executions(std::uint64_t slot) {
    if (slot >= slots_) throw std::out_of_range("slot " + std::to_string(slot) + " of the tally");
    return tally_.executions()[slot];
  }
  void begin(std::uint64_t slot) {
    if (tallies()) executions(slot).started.fetch_add(1);
    commit(0);
  }
  void end(std::uint64_t slot) {
    if (tallies()) executions(slot).finished.fetch_add(1);
    commit(2);
  }

  void check(const Question& question) {
    if (question.payload != bytes_of(question.number)) garbled(question.number);
    if (question.session != kNoSession && tallies()) {
      auto& last = tally_.last_of_session[question.session % kMostSessions];
      if (last.exchange(question.number) >= question.number) {
        count_first(tally_.out_of_order, tally_.first_out_of_order, question.number);
      }
    }
  }
  Answer finish(const Question& question, std::uint64_t slot) {
    Answer answer{question.number, static_cast<std::int32_t>(replica()),
                  bytes_of(answer_to(question.number))};
    end(slot);
    return answer;
  }
  /// Some calls take long enough to be hit by a kill.
  static void linger(std::uint64_t number) {
    if (word_of(number, 0) % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  static forge::Task<void> linger_later(std::uint64_t number) {
    if (word_of(number, 0) % 16 == 0) co_await forge::sleep_for(std::chrono::microseconds(500));
  }
  void garbled(std::uint64_t number) {
    count_first(tally_.garbled, tally_.first_garbled, number);
    throw std::runtime_error("request " + std::to_string(number) + " arrived garbled");
  }

  /// Commits the fault that this replica is armed with, if this is its moment.
  void commit(std::uint32_t moment) {
    Tally::Replica& mine = tally_.replicas[replica()];
    std::uint32_t what = mine.armed.load(std::memory_order_relaxed);
    if (what == 0 || moment_of(what) != moment) return;
    // Disarmed first: the next life must not find it.
    if (!mine.armed.compare_exchange_strong(what, 0)) return;
    mine.fired_ns.store(now_ns());
    tally_.fired[static_cast<std::size_t>(fault_of(what))].fetch_add(1);
    switch (fault_of(what)) {
      case Fault::segv:
        segfault();
        break;
      case Fault::abort:
        std::abort();
      case Fault::slow:
        std::this_thread::sleep_for(std::chrono::milliseconds(3));
        break;
      case Fault::corrupt:
        if (scribble(seed())) let_it_be_seen();
        break;
      case Fault::forged:
        if (forge_answer(seed())) let_it_be_seen();
        break;
      case Fault::none:
      case Fault::kill:
      case Fault::stop:
        break;  // from outside
    }
  }

  static std::uint64_t seed() { return static_cast<std::uint64_t>(now_ns()); }
  /// The next answer would be written over it.
  static void let_it_be_seen() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }

  Tally& tally_;
  const std::uint64_t slots_;
};

class ChaosTasks : public Chaos {
  using Chaos::Chaos;
};

}  // namespace
}  // namespace chaos

FORGE_PLUGIN(m) {
  using chaos::Chaos;
  using chaos::ChaosTasks;
  const forge::EndpointOptions idempotent{.idempotent = true};
  forge::EndpointOptions batched{.batch_size = chaos::kBatchSize,
                                 .batch_timeout = std::chrono::milliseconds(1)};
  forge::EndpointOptions batched_idempotent = batched;
  batched_idempotent.idempotent = true;
  m.actor<Chaos, std::string, std::uint64_t>("Chaos", "Answers, tallies, and fails when told to.")
      .endpoint("ask", &Chaos::ask)
      .service_endpoint("ask_idempotent", &Chaos::ask, idempotent)
      .endpoint("ask_all", &Chaos::ask_all)
      .batched_endpoint("ask_batch", &Chaos::ask_batch, batched)
      .batched_endpoint("ask_batch_idempotent", &Chaos::ask_batch, batched_idempotent)
      .endpoint("ask_tensor", &Chaos::ask_tensor);
  m.actor<ChaosTasks, std::string, std::uint64_t>("ChaosTasks",
                                                  "The same, where it can with tasks.")
      .endpoint("ask", &Chaos::ask_later)
      .service_endpoint("ask_idempotent", &Chaos::ask_later, idempotent)
      .endpoint("ask_all", &Chaos::ask_all_later)
      .batched_endpoint("ask_batch", &Chaos::ask_batch, batched)
      .batched_endpoint("ask_batch_idempotent", &Chaos::ask_batch, batched_idempotent)
      .endpoint("ask_tensor", &Chaos::ask_tensor);
}
