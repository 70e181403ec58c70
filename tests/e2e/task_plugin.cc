// An actor whose endpoints are coroutines, and that remembers what ran beside what.
#include <forge/plugin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using Numbers = std::vector<std::int64_t>;

namespace {

/// Resumes whoever awaits it on a thread of its own.
struct OtherThread {
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> task) const {
    std::thread([task] {
      std::this_thread::sleep_for(1ms);
      task.resume();
    }).detach();
  }
  std::int64_t await_resume() const { return 7; }
};

class Tasks : public forge::ForgeActor {
 public:
  forge::Task<std::int64_t> nap(std::int64_t value, std::int64_t ms) {
    const Running running(*this);
    co_await forge::sleep_for(std::chrono::milliseconds(ms));
    co_return value;
  }
  /// Throws after it has slept.
  forge::Task<> fail(std::string text) {
    co_await forge::sleep_for(1ms);
    throw std::runtime_error(text);
  }
  /// Ends the process after it has slept.
  forge::Task<> die() {
    co_await forge::sleep_for(20ms);
    std::_Exit(3);
  }
  /// One endpoint of another, and of it again.
  forge::Task<std::int64_t> sum(std::int64_t n) {
    std::int64_t total = 0;
    for (std::int64_t i = 1; i <= n; ++i) total += co_await nap(i, 0);
    co_return total;
  }
  /// What another thread ends goes on on the actor's own.
  forge::Task<bool> stays_on_its_thread() {
    const auto here = std::this_thread::get_id();
    const std::int64_t seven = co_await OtherThread{};
    co_return seven == 7 && here == std::this_thread::get_id();
  }
  /// What context() says before and after it has slept.
  forge::Task<std::string> whose(std::int64_t ms) {
    const std::string before = forge::context().sess_id();
    co_await forge::sleep_for(std::chrono::milliseconds(ms));
    const std::string after = forge::context().sess_id();
    co_return before == after ? after : before + " became " + after;
  }
  forge::Task<bool> until_cancelled(std::int64_t most_ms) {
    for (std::int64_t i = 0; i < most_ms && !forge::context().cancelled(); ++i)
      co_await forge::sleep_for(1ms);
    cancelled_ = forge::context().cancelled();
    co_return cancelled_;
  }
  bool was_cancelled() const { return cancelled_; }
  /// Ends only when nobody waits for it; the padding takes a while to place.
  forge::Task<std::int64_t> hold(std::int64_t value, forge::Bytes) {
    while (!forge::context().cancelled()) co_await forge::sleep_for(200us);
    co_return value;
  }
  forge::Task<Numbers> hold_batch(Numbers values, std::vector<forge::Bytes>) {
    while (!forge::context().cancelled()) co_await forge::sleep_for(200us);
    co_return values;
  }
  /// Notes begin and end, with a nap between.
  forge::Task<> note(std::int64_t value, std::int64_t ms) {
    notes_.push_back(value);
    co_await forge::sleep_for(std::chrono::milliseconds(ms));
    notes_.push_back(-value);
  }
  Numbers notes() const { return notes_; }
  forge::Task<Numbers> doubled(Numbers values) {
    const Running running(*this);
    co_await forge::sleep_for(5ms);
    for (auto& value : values) value *= 2;
    co_return values;
  }
  std::int64_t most_at_once() const { return most_; }
  std::int64_t plain(std::int64_t value) const { return value; }

 private:
  struct Running {
    explicit Running(Tasks& actor) : self(actor) { self.most_ = std::max(self.most_, ++self.now_); }
    ~Running() { --self.now_; }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    Tasks& self;
  };
  std::int64_t now_ = 0;
  std::int64_t most_ = 0;
  bool cancelled_ = false;
  Numbers notes_;
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Tasks>("Tasks", "Waits without being in the way.")
      .endpoint("nap", &Tasks::nap)
      .service_endpoint("nap_idempotent", &Tasks::nap, {.idempotent = true})
      .endpoint("fail", &Tasks::fail)
      .endpoint("die", &Tasks::die)
      .endpoint("sum", &Tasks::sum)
      .endpoint("stays_on_its_thread", &Tasks::stays_on_its_thread)
      .endpoint("whose", &Tasks::whose)
      .endpoint("until_cancelled", &Tasks::until_cancelled)
      .endpoint("was_cancelled", &Tasks::was_cancelled)
      .endpoint("hold", &Tasks::hold)
      .batched_endpoint("hold_batch", &Tasks::hold_batch, {.batch_size = 3, .batch_timeout = 1h})
      .endpoint("note", &Tasks::note)
      .endpoint("notes", &Tasks::notes)
      .batched_endpoint("doubled", &Tasks::doubled, {.batch_size = 4})
      .endpoint("most_at_once", &Tasks::most_at_once)
      .endpoint("plain", &Tasks::plain);
}
