// An actor that is called in batches and remembers how large they were.
#include <forge/plugin.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using Numbers = std::vector<std::int64_t>;

namespace {

class Batches : public forge::ForgeActor {
 public:
  Numbers doubled(const Numbers& values) {
    note(values.size());
    Numbers result;
    for (const auto value : values) result.push_back(2 * value);
    return result;
  }
  /// Each element has its own outcome.
  std::vector<forge::Result<std::int64_t>> halved(const Numbers& values) {
    note(values.size());
    std::vector<forge::Result<std::int64_t>> result;
    for (const auto value : values) {
      if (value % 2 == 0) {
        result.emplace_back(value / 2);
      } else {
        result.emplace_back(forge::InvalidArgument(std::to_string(value) + " is odd"));
      }
    }
    return result;
  }
  /// One negative number spoils the batch.
  Numbers strict(const Numbers& values) {
    note(values.size());
    for (const auto value : values) {
      if (value < 0) throw std::domain_error("negative");
    }
    return values;
  }
  /// One negative number ends the process.
  Numbers fragile(const Numbers& values) {
    note(values.size());
    for (const auto value : values) {
      if (value < 0) std::_Exit(7);
    }
    return values;
  }
  /// Rows in, rows out, and what it was told about the batch.
  forge::Tensor stacked(const forge::Tensor& rows) {
    note(static_cast<std::size_t>(rows.shape()[0]));
    forge::Tensor result = forge::context().allocate(rows.dtype(), rows.shape());
    const auto in = rows.span<const float>();
    for (std::size_t i = 0; i < in.size(); ++i) result.span<float>()[i] = in[i] + 1;
    return result;
  }
  /// The sum of each row; the rows themselves are kept.
  std::vector<double> sums(const forge::Tensor& rows) {
    note(static_cast<std::size_t>(rows.shape()[0]));
    kept_ = rows;
    std::vector<double> result;
    const auto all = rows.span<const float>();
    const auto width = all.size() / static_cast<std::size_t>(rows.shape()[0]);
    for (std::size_t i = 0; i < all.size(); i += width)
      result.push_back(std::accumulate(all.begin() + i, all.begin() + i + width, 0.0));
    return result;
  }
  double kept_sum() const {
    const auto all = kept_.span<const float>();
    return std::accumulate(all.begin(), all.end(), 0.0);
  }
  std::uint64_t copies() const { return forge::detail::copied_tensors(); }
  Numbers batch_sizes_in_context(std::size_t count) {
    return Numbers(count, static_cast<std::int64_t>(forge::context().batch_size()));
  }
  void sleeps(const Numbers& milliseconds) {
    note(milliseconds.size());
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds.front()));
  }
  std::vector<std::string> labelled(const std::vector<std::string>& names, const Numbers& values) {
    note(values.size());
    std::vector<std::string> result;
    for (std::size_t i = 0; i < values.size(); ++i)
      result.push_back(names[i] + "=" + std::to_string(values[i]));
    return result;
  }
  std::int64_t one_by_one(std::int64_t value) {
    note(1);
    return value;
  }
  Numbers sizes() const { return sizes_; }
  std::int64_t pid() const { return ::getpid(); }

 private:
  void note(std::size_t size) { sizes_.push_back(static_cast<std::int64_t>(size)); }
  Numbers sizes_;
  forge::Tensor kept_;
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Batches>("Batches", "Is called in batches.")
      .batched_endpoint("doubled", &Batches::doubled, {.batch_size = 8, .batch_timeout = 20ms})
      .batched_endpoint("patient", &Batches::doubled, {.batch_size = 4, .batch_timeout = 1h})
      .batched_endpoint("single", &Batches::doubled, {.batch_size = 1})
      .batched_endpoint("halved", &Batches::halved, {.batch_size = 4, .batch_timeout = 1h})
      .batched_endpoint("strict", &Batches::strict, {.batch_size = 4, .batch_timeout = 1h})
      .batched_endpoint("strict_idempotent", &Batches::strict,
                        {.batch_size = 4, .batch_timeout = 1h, .idempotent = true})
      .batched_endpoint("fragile", &Batches::fragile, {.batch_size = 4, .batch_timeout = 20ms})
      .batched_endpoint("fragile_idempotent", &Batches::fragile,
                        {.batch_size = 4, .batch_timeout = 20ms, .idempotent = true})
      .batched_endpoint("stacked", &Batches::stacked, {.batch_size = 4, .batch_timeout = 20ms})
      .batched_endpoint("context", &Batches::batch_sizes_in_context,
                        {.batch_size = 3, .batch_timeout = 1h})
      .batched_endpoint("sleeps", &Batches::sleeps, {.batch_size = 2, .batch_timeout = 5ms})
      .batched_endpoint("labelled", &Batches::labelled, {.batch_size = 4, .batch_timeout = 5ms})
      .service_endpoint("one_by_one", &Batches::one_by_one, {.batch_size = 4, .batch_timeout = 1h})
      .batched_endpoint("sums", &Batches::sums, {.batch_size = 4, .batch_timeout = 1h})
      .batched_endpoint("sums_soon", &Batches::sums, {.batch_size = 4, .batch_timeout = 1ms})
      .endpoint("kept_sum", &Batches::kept_sum)
      .endpoint("copies", &Batches::copies)
      .endpoint("sizes", &Batches::sizes)
      .endpoint("pid", &Batches::pid);
  m.actor<Batches>("TooLarge", "Wants larger batches than there are.")
      .batched_endpoint("doubled", &Batches::doubled, {.batch_size = 100'000});
}
