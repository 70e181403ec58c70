#include "bench/forge_bench/time_split.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>

#include "bench/forge_bench/report.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

constexpr std::pair<const char*, forge::Histogram TimeSplit::*> kParts[] = {
    {"batch wait", &TimeSplit::batch_wait},
    {"queue", &TimeSplit::queue},
    {"transport", &TimeSplit::transport},
    {"execution", &TimeSplit::execution}};

/// All runs together.
struct Sum {
  TimeSplit time;
  std::vector<std::uint64_t> batch_sizes;
  double whole_ns = 0;  ///< of the average request, by the client's clock

  /// Around what the service saw of a request: arguments before, its turn and the value after.
  double client_ns() const { return std::max(0.0, whole_ns - 1e9 * time.total.mean()); }
};

Sum add_up(const std::vector<Run>& runs) {
  Sum sum;
  double measured = 0;
  for (const Run& run : runs) {
    for (const auto& [name, part] : kParts) (sum.time.*part).add(run.metrics.time.*part);
    sum.time.total.add(run.metrics.time.total);
    const auto& sizes = run.metrics.batch_sizes;
    sum.batch_sizes.resize(std::max(sum.batch_sizes.size(), sizes.size()));
    for (std::size_t n = 0; n < sizes.size(); ++n) sum.batch_sizes[n] += sizes[n];
    const auto count = static_cast<double>(run.load.latency.count());
    sum.whole_ns += count * run.load.latency.mean();
    measured += count;
  }
  if (measured > 0) sum.whole_ns /= measured;
  return sum;
}

struct BatchSizes {
  std::uint64_t batches = 0;
  double mean = 0;
  std::size_t smallest = 0;
  double full = 0;  ///< share of the largest size there may be
};

BatchSizes look_at(std::span<const std::uint64_t> sizes, std::size_t most) {
  BatchSizes result;
  double elements = 0;
  for (std::size_t n = 0; n < sizes.size(); ++n) {
    if (sizes[n] == 0) continue;
    if (result.batches == 0) result.smallest = n;
    result.batches += sizes[n];
    elements += static_cast<double>(n) * static_cast<double>(sizes[n]);
  }
  if (result.batches == 0) return result;
  const auto batches = static_cast<double>(result.batches);
  result.mean = elements / batches;
  if (most < sizes.size()) result.full = static_cast<double>(sizes[most]) / batches;
  return result;
}

std::string share(double part, double whole) {
  return whole > 0 ? text("%.0f %%", 100 * part / whole) : "-";
}

/// What the largest part says about the load.
std::string advice(const Options& options, const Sum& sum, const BatchSizes& batches) {
  const EndpointOptions called = target(options).options;
  if (batches.batches > 0 && batches.mean < 0.5 * called.batch_size) {
    return "batches leave half empty: more --inflight or --clients, or a smaller --batch-size";
  }
  const char* largest = "client";
  double most = sum.client_ns();
  for (const auto& [name, part] : kParts) {
    if (const double mean = 1e9 * (sum.time.*part).mean(); mean > most) {
      largest = name;
      most = mean;
    }
  }
  const std::string name = largest;
  if (name == "batch wait") return "requests wait for their batch: a shorter --batch-timeout";
  if (name == "queue")
    return "requests wait for room at a replica: more --replicas, less --inflight";
  if (name == "execution") return "the endpoint itself takes most of the time: more --replicas";
  if (name == "client" && options.inflight > 1) {
    return "answers wait for their client to come to them: less --inflight, more --clients";
  }
  if (name == "transport" && options.inflight > 1) {
    return "requests wait behind each other at the worker: more --replicas, less --inflight";
  }
  return "";
}

}  // namespace

std::string time_split_text(const Options& options, const std::vector<Run>& runs) {
  const Sum sum = add_up(runs);
  if (sum.time.total.count() == 0) return "";
  std::string out = left("time", 12);
  for (const char* head : {"mean", "p50", "p99", "max", "share"}) out += right(head, 10);
  out += "\n" + left("client", 12) + right(format_ns(sum.client_ns()), 10);
  for (int i = 0; i < 3; ++i) out += right("-", 10);
  out += right(share(sum.client_ns(), sum.whole_ns), 10) + "\n";
  for (const auto& [name, part] : kParts) {
    const forge::Histogram& times = sum.time.*part;
    if (times.count() == 0) continue;
    out += left(name, 12);
    for (const double s : {times.mean(), times.quantile(0.5), times.quantile(0.99), times.max()}) {
      out += right(format_ns(1e9 * s), 10);
    }
    out += right(share(1e9 * times.mean(), sum.whole_ns), 10) + "\n";
  }
  out += "\n";
  const auto most = static_cast<std::size_t>(target(options).options.batch_size);
  const BatchSizes batches = look_at(sum.batch_sizes, most);
  if (batches.batches > 0) {
    out += labelled("batches", with_commas(batches.batches) +
                                   text("; %.1f of %zu on average, %zu at least, %.0f %% full",
                                        batches.mean, most, batches.smallest, 100 * batches.full));
  }
  if (const std::string next = advice(options, sum, batches); !next.empty()) {
    out += labelled("next", next);
  }
  return out;
}

void put_time_split(nlohmann::ordered_json& json, const std::vector<Run>& runs) {
  const Sum sum = add_up(runs);
  auto& time = json["time"];
  time["client"] = {{"mean_ns", sum.client_ns()}};
  const auto put = [&](std::string name, const forge::Histogram& times) {
    std::ranges::replace(name, ' ', '_');
    time[name] = {{"count", times.count()},
                  {"mean_ns", 1e9 * times.mean()},
                  {"p50_ns", 1e9 * times.quantile(0.5)},
                  {"p99_ns", 1e9 * times.quantile(0.99)},
                  {"max_ns", 1e9 * times.max()}};
  };
  for (const auto& [name, part] : kParts) put(name, sum.time.*part);
  put("total", sum.time.total);
  json["batch_sizes"] = nlohmann::ordered_json::object();
  for (std::size_t n = 0; n < sum.batch_sizes.size(); ++n) {
    if (sum.batch_sizes[n] != 0) json["batch_sizes"][std::to_string(n)] = sum.batch_sizes[n];
  }
}

}  // namespace forge::bench
