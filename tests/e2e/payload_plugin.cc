// A plugin with an endpoint for every kind of payload, and a few that look at memory and process.
#include <dirent.h>
#include <forge/plugin.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <unordered_map>

#include "payloads.h"

namespace {

using namespace payloads;

/// A user's own exception, derived from nothing of forge.
struct OutOfCoffee : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Payloads : public forge::ForgeActor {
 public:
  template <class T>
  T same(const T& value) const {
    return value;
  }
  void nothing() const {}
  forge::Result<std::int64_t> half(std::int64_t value) const {
    if (value % 2 != 0) return forge::InvalidArgument(std::to_string(value) + " is odd; double it");
    return value / 2;
  }
  forge::Task<std::int64_t> later(std::int64_t value) const { co_return co_await twice(value); }
  std::int64_t overloaded(std::int64_t) const { return 1; }
  std::int64_t overloaded(const std::string&) const { return 2; }

  Location where(const forge::Tensor& tensor) const { return locate(tensor.bytes().data()); }
  double sum(const forge::Tensor& tensor) const {
    const auto values = tensor.span<float>();
    return std::accumulate(values.begin(), values.end(), 0.0);
  }
  /// What happens when an actor writes to its argument.
  void scribble(forge::Tensor tensor) const { tensor.span<float>()[0] = 1; }
  void keep(const forge::Tensor& tensor) { kept_ = tensor; }
  forge::Tensor kept() const { return kept_; }
  /// `count` bytes of `value`, born in answer memory.
  forge::Tensor make_tensor(std::int64_t count, std::uint8_t value) const {
    forge::Tensor tensor = forge::context().allocate(forge::DType::u8, {count});
    std::ranges::fill(tensor.span<std::uint8_t>(), value);
    return tensor;
  }
  /// The same, born on the heap.
  forge::Tensor make_heap_tensor(std::int64_t count, std::uint8_t value) const {
    forge::Tensor tensor(forge::DType::u8, {count});
    std::ranges::fill(tensor.span<std::uint8_t>(), value);
    return tensor;
  }
  forge::Bytes make_bytes(std::uint64_t count, std::uint8_t value) const {
    return forge::Bytes(count, std::byte{value});
  }
  /// Paints the tensor of answer memory that it keeps, and returns it.
  forge::Tensor repaint(std::uint8_t value) {
    if (painted_.size() == 0) painted_ = forge::context().allocate(forge::DType::u8, {200'000});
    std::ranges::fill(painted_.span<std::uint8_t>(), value);
    return painted_;
  }
  const forge::Tensor& painted() const { return painted_; }
  /// Likewise, but paints each time a copy of it.
  forge::Tensor repaint_copy(std::uint8_t value) {
    painted_ = painted_.copy();
    return repaint(value);
  }
  void forget_painted() { painted_ = forge::Tensor(); }
  /// Keeps answer memory that is no answer.
  void hoard(std::int64_t count) {
    hoard_.push_back(forge::context().allocate(forge::DType::u8, {count}));
  }
  forge::Task<forge::Bytes> make_bytes_later(std::uint64_t count, std::uint8_t value) const {
    co_await forge::sleep_for(std::chrono::milliseconds(1));
    co_return make_bytes(count, value);
  }
  std::vector<forge::Bytes> make_bytes_batch(std::vector<std::uint64_t> counts) {
    executions_ += std::ssize(counts);
    std::vector<forge::Bytes> all;
    for (const std::uint64_t count : counts) all.push_back(make_bytes(count, 7));
    return all;
  }
  std::int64_t executions() const { return executions_; }
  forge::Bytes make_bytes_counted(std::uint64_t count, std::uint8_t value) {
    ++executions_;
    return make_bytes(count, value);
  }
  /// Two views of one tensor.
  std::pair<forge::Tensor, forge::Tensor> twins(std::int64_t count) const {
    const forge::Tensor tensor = make_tensor(count, 9);
    return {tensor, tensor};
  }

  void fail(const std::string& how, const std::string& text) const {
    if (how == "range") throw std::out_of_range(text);
    if (how == "own") throw OutOfCoffee(text);
    if (how == "int") throw 42;
    if (how == "forge") throw forge::Backpressure(text);
    if (how == "nested") throw forge::ActorError("another actor", "std::bad_alloc", text);
  }
  void sleep_ms(std::int64_t ms) const {
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
  }
  /// Works until nobody waits for it any more.
  void until_cancelled() {
    while (!forge::context().cancelled()) std::this_thread::yield();
    ++cancelled_;
  }
  std::int64_t cancellations() const { return cancelled_; }
  std::int64_t pid() const { return ::getpid(); }
  std::string session() const { return forge::context().sess_id(); }
  std::string variable(const std::string& name) const {
    const char* const value = std::getenv(name.c_str());
    return value == nullptr ? "(unset)" : value;
  }
  std::vector<std::int64_t> context_numbers() const {
    const forge::Context& context = forge::context();
    return {context.rank(),     context.procs(),
            context.replica(),  static_cast<std::int64_t>(context.incarnation()),
            context.device(),   static_cast<std::int64_t>(context.batch_size()),
            context.cancelled()};
  }
  ProcessState process_state() const;

 private:
  forge::Task<std::int64_t> twice(std::int64_t value) const { co_return 2 * value; }
  forge::Tensor kept_;
  forge::Tensor painted_;
  std::vector<forge::Tensor> hoard_;
  std::int64_t cancelled_ = 0;
  std::int64_t executions_ = 0;
};

ProcessState Payloads::process_state() const {
  ProcessState state;
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action {};
    if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler != SIG_DFL)
      state.not_default.push_back(signal);
    if (sigismember(&blocked, signal) == 1) state.blocked.push_back(signal);
  }
  DIR* const folder = ::opendir("/proc/self/fd");
  while (const dirent* entry = ::readdir(folder)) {
    const int fd = std::atoi(entry->d_name);
    if (fd <= 2 || fd == ::dirfd(folder)) continue;
    std::string target(256, '\0');
    const std::string link = "/proc/self/fd/" + std::string(entry->d_name);
    const auto size = ::readlink(link.c_str(), target.data(), target.size());
    target.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
    state.descriptors.push_back(std::move(target));
  }
  ::closedir(folder);
  return state;
}

/// Its constructor takes arguments of many kinds.
class Built : public forge::ForgeActor {
 public:
  Built(std::int8_t small, double number, std::string text, Everything everything,
        forge::Tensor weights)
      : text_(std::to_string(small) + " " + std::to_string(number) + " " + text),
        everything_(std::move(everything)),
        weights_(std::move(weights)) {}
  std::string text() const { return text_; }
  Everything everything() const { return everything_; }
  forge::Tensor weights() const { return weights_; }

 private:
  std::string text_;
  Everything everything_;
  forge::Tensor weights_;
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Payloads>("Payloads", "Gives every kind of payload back.")
      .endpoint("bool", &Payloads::same<bool>)
      .endpoint("i8", &Payloads::same<std::int8_t>)
      .endpoint("u8", &Payloads::same<std::uint8_t>)
      .endpoint("i16", &Payloads::same<std::int16_t>)
      .endpoint("u16", &Payloads::same<std::uint16_t>)
      .endpoint("i32", &Payloads::same<std::int32_t>)
      .endpoint("u32", &Payloads::same<std::uint32_t>)
      .endpoint("i64", &Payloads::same<std::int64_t>)
      .endpoint("u64", &Payloads::same<std::uint64_t>)
      .endpoint("f32", &Payloads::same<float>)
      .endpoint("f64", &Payloads::same<double>)
      .endpoint("color", &Payloads::same<Color>)
      .endpoint("depth", &Payloads::same<Depth>)
      .endpoint("string", &Payloads::same<std::string>)
      .endpoint("bytes", &Payloads::same<forge::Bytes>)
      .endpoint("doubles", &Payloads::same<std::vector<double>>)
      .endpoint("bools", &Payloads::same<std::vector<bool>>)
      .endpoint("strings", &Payloads::same<std::vector<std::string>>)
      .endpoint("array", &Payloads::same<std::array<std::int16_t, 3>>)
      .endpoint("pair", &Payloads::same<std::pair<std::string, double>>)
      .endpoint("tuple", &Payloads::same<std::tuple<bool, std::string, Point>>)
      .endpoint("variant", &Payloads::same<Choice>)
      .endpoint("optional", &Payloads::same<std::optional<std::string>>)
      .endpoint("map", &Payloads::same<std::map<std::string, std::vector<double>>>)
      .endpoint("unordered_map", &Payloads::same<std::unordered_map<std::string, Point>>)
      .endpoint("point", &Payloads::same<Point>)
      .endpoint("plain", &Payloads::same<Plain>)
      .endpoint("tree", &Payloads::same<Tree>)
      .endpoint("everything", &Payloads::same<Everything>)
      .endpoint("tensor", &Payloads::same<forge::Tensor>)
      .endpoint("tensors", &Payloads::same<std::vector<forge::Tensor>>)
      .endpoint("nothing", &Payloads::nothing)
      .endpoint("half", &Payloads::half)
      .endpoint("later", &Payloads::later)
      .endpoint("overloaded_integer", forge::overload<std::int64_t>(&Payloads::overloaded))
      .endpoint("overloaded_text", forge::overload<const std::string&>(&Payloads::overloaded))
      .endpoint("where", &Payloads::where)
      .endpoint("sum", &Payloads::sum)
      .endpoint("scribble", &Payloads::scribble)
      .endpoint("keep", &Payloads::keep)
      .endpoint("kept", &Payloads::kept)
      .endpoint("make_tensor", &Payloads::make_tensor)
      .endpoint("make_heap_tensor", &Payloads::make_heap_tensor)
      .endpoint("make_bytes", &Payloads::make_bytes)
      .endpoint("twins", &Payloads::twins)
      .endpoint("repaint", &Payloads::repaint)
      .endpoint("repaint_copy", &Payloads::repaint_copy)
      .endpoint("painted", &Payloads::painted)
      .endpoint("forget_painted", &Payloads::forget_painted)
      .endpoint("hoard", &Payloads::hoard)
      .endpoint("make_bytes_later", &Payloads::make_bytes_later)
      .batched_endpoint("make_bytes_batch", &Payloads::make_bytes_batch,
                        {.batch_size = 8, .batch_timeout = std::chrono::milliseconds(5)})
      .endpoint("make_bytes_counted", &Payloads::make_bytes_counted)
      .endpoint("executions", &Payloads::executions)
      .endpoint("fail", &Payloads::fail)
      .endpoint("sleep_ms", &Payloads::sleep_ms)
      .endpoint("until_cancelled", &Payloads::until_cancelled)
      .endpoint("cancellations", &Payloads::cancellations)
      .endpoint("pid", &Payloads::pid)
      .endpoint("session", &Payloads::session)
      .service_endpoint("pid_least_loaded", &Payloads::pid, {.router = "least_loaded"})
      .service_endpoint("sleep_least_loaded", &Payloads::sleep_ms, {.router = "least_loaded"})
      .service_endpoint("pid_power_of_two", &Payloads::pid, {.router = "power_of_two_choices"})
      .service_endpoint("pid_hash", &Payloads::pid, {.router = "hash"})
      .endpoint("variable", &Payloads::variable)
      .endpoint("context_numbers", &Payloads::context_numbers)
      .endpoint("process_state", &Payloads::process_state);
  m.actor<Built, std::int8_t, double, std::string, Everything, forge::Tensor>(
       "Built", "Is constructed from many kinds of payload.")
      .endpoint("text", &Built::text)
      .endpoint("everything", &Built::everything)
      .endpoint("weights", &Built::weights);
}
