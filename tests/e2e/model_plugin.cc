// Actors with one endpoint of each kind, that note what they execute in a file.
#include <fcntl.h>
#include <forge/plugin.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "model_log.h"

using namespace std::chrono_literals;
using forge::e2e::answer_of;
using forge::e2e::Deed;
using forge::e2e::ModelRecord;
using Numbers = std::vector<std::int64_t>;
using Results = std::vector<forge::Result<std::int64_t>>;

namespace {

class Model : public forge::ForgeActor {
 public:
  explicit Model(const std::string& path)
      : file_(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) {
    if (file_ < 0) throw std::runtime_error("cannot open " + path);
  }
  ~Model() override { ::close(file_); }

  std::int64_t plain(std::int64_t call, std::int64_t deed) {
    const Execution execution(*this, Numbers(1, call), Numbers(1, deed));
    work(deed);
    if (execution.spoilt()) throw std::domain_error("as it was told");
    if (deed < 0) throw std::range_error("as it was told");
    return answer_of(call);
  }
  Results batch(const Numbers& calls, const Numbers& deeds) {
    const Execution execution(*this, calls, deeds);
    work(*std::ranges::max_element(deeds));
    return answers(execution, calls, deeds);
  }
  forge::Task<std::int64_t> task(std::int64_t call, std::int64_t deed) {
    const Execution execution(*this, Numbers(1, call), Numbers(1, deed));
    if (deed > 0) co_await forge::sleep_for(std::chrono::microseconds(deed));
    if (execution.spoilt()) throw std::domain_error("as it was told");
    if (deed < 0) throw std::range_error("as it was told");
    co_return answer_of(call);
  }
  forge::Task<Results> task_batch(Numbers calls, Numbers deeds) {
    const Execution execution(*this, calls, deeds);
    const std::int64_t longest = *std::ranges::max_element(deeds);
    if (longest > 0) co_await forge::sleep_for(std::chrono::microseconds(longest));
    co_return answers(execution, calls, deeds);
  }
  std::int64_t pid() const { return ::getpid(); }

 private:
  /// Notes its begin and, however it ends, its end.
  class Execution {
   public:
    Execution(Model& actor, const Numbers& calls, const Numbers& deeds)
        : actor_(actor), calls_(calls), silent_(forge::context().rank() != 0) {
      record_.session = forge::e2e::session_number(forge::context().sess_id());
      record_.pid = ::getpid();
      record_.execution = ++actor.executions_;
      record_.size = static_cast<std::uint16_t>(calls.size());
      record_.throws = std::ranges::count(deeds, static_cast<std::int64_t>(Deed::throws)) != 0;
      note(false);
      // By the rank that notes: the death of another could come before it has.
      const auto dying = std::ranges::count(deeds, static_cast<std::int64_t>(Deed::dies));
      if (dying != 0 && !silent_) std::_Exit(7);
    }
    ~Execution() { note(true); }
    Execution(const Execution&) = delete;
    Execution& operator=(const Execution&) = delete;
    bool spoilt() const { return record_.throws; }

   private:
    void note(bool ends) {
      if (silent_) return;
      record_.ends = ends;
      for (const std::int64_t call : calls_) {
        record_.call = call;
        // Copied out: sanitizers make the compiler believe that only its first member is written.
        const auto bytes = std::bit_cast<std::array<std::byte, sizeof(record_)>>(record_);
        if (::write(actor_.file_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
          std::abort();
      }
    }
    Model& actor_;
    const Numbers calls_;
    const bool silent_;  // one rank of each replica notes
    ModelRecord record_;
  };

  static void work(std::int64_t deed) {
    if (deed > 0) std::this_thread::sleep_for(std::chrono::microseconds(deed));
  }
  static Results answers(const Execution& execution, const Numbers& calls, const Numbers& deeds) {
    if (execution.spoilt()) throw std::domain_error("as it was told");
    Results results;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (deeds[i] < 0) {
        results.emplace_back(forge::InvalidArgument("as it was told"));
      } else {
        results.emplace_back(answer_of(calls[i]));
      }
    }
    return results;
  }

  const int file_;
  std::uint32_t executions_ = 0;
};

/// Each kind, once plain and once idempotent.
void add_methods(forge::ActorBuilder<Model> actor) {
  actor.endpoint("plain", &Model::plain)
      .service_endpoint("plain_again", &Model::plain, {.idempotent = true})
      .service_endpoint("together", &Model::plain, {.batch_size = 5, .batch_timeout = 1ms})
      .service_endpoint("together_again", &Model::plain,
                        {.batch_size = 5, .batch_timeout = 1ms, .idempotent = true})
      .batched_endpoint("batch", &Model::batch, {.batch_size = 4, .batch_timeout = 2ms})
      .batched_endpoint("batch_again", &Model::batch,
                        {.batch_size = 7, .batch_timeout = 1ms, .idempotent = true})
      .batched_endpoint("single", &Model::batch, {.router = "least_loaded"})
      .endpoint("pid", &Model::pid);
}

}  // namespace

FORGE_PLUGIN(m) {
  auto plain = m.actor<Model, std::string>("Methods", "Runs one call at a time.");
  add_methods(plain);
  auto mixed = m.actor<Model, std::string>("Mixed", "Some of its endpoints are coroutines.");
  add_methods(mixed);
  mixed.endpoint("task", &Model::task)
      .service_endpoint("task_again", &Model::task, {.idempotent = true})
      .service_endpoint("task_together", &Model::task, {.batch_size = 3, .batch_timeout = 1ms})
      .batched_endpoint("task_batch", &Model::task_batch, {.batch_size = 4, .batch_timeout = 1ms})
      .batched_endpoint("task_batch_again", &Model::task_batch,
                        {.batch_size = 4, .batch_timeout = 1ms, .idempotent = true});
}
