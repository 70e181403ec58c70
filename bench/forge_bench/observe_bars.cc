#include "bench/forge_bench/observe_bars.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <thread>

#include "bench/forge_bench/text.h"
#include "bench/forge_bench/work.h"
#include "core/frames.h"
#include "core/local_socket.h"
#include "core/statistics_segment.h"
#include "shm/file_descriptor.h"

namespace forge::bench {
namespace {

using namespace std::chrono_literals;

constexpr auto kLookEvery = 250ms;

LoadPlan plan_of(const Options& options) {
  LoadPlan plan;
  plan.clients = options.clients;
  plan.inflight = options.inflight;
  plan.warmup_s = options.warmup_s;
  plan.duration_s = options.duration_s;
  plan.cpus = placement(options).clients;
  return plan;
}

LoadResult load(const Options& options, const Service& service) {
  return run_load(plan_of(options), [&](int client) {
    return BytesWork(callees<Bytes(Bytes)>(options, service, client), options.payload,
                     options.seed + static_cast<std::uint64_t>(client));
  });
}

double off_by(double value, double from) { return std::abs(value - from) / from; }

Bar share_bar(std::string name, double value, double limit, std::string note) {
  Bar bar{std::move(name),
          text("± %.0f %%", 100 * limit),
          text("%.2f %%", 100 * value),
          value <= limit ? Verdict::met : Verdict::missed,
          std::move(note),
          value,
          limit};
  return bar;
}

double cpu_ms(clockid_t clock) {
  timespec used{};
  ::clock_gettime(clock, &used);
  return static_cast<double>(used.tv_sec) * 1e3 + static_cast<double>(used.tv_nsec) / 1e6;
}

/// Of all threads of this process but the one that asks.
double cpu_ms_of_others() {
  return cpu_ms(CLOCK_PROCESS_CPUTIME_ID) - cpu_ms(CLOCK_THREAD_CPUTIME_ID);
}

/// One scrape, compressed as Prometheus asks for it. Bytes of the answer.
std::size_t scrape(const std::string& address) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port =
      htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  const shm::FileDescriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  constexpr std::string_view kRequest =
      "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0 ||
      ::send(fd.get(), kRequest.data(), kRequest.size(), MSG_NOSIGNAL) < 0) {
    throw std::runtime_error("metrics cannot be scraped");
  }
  std::string answer;
  char bytes[65536];
  for (ssize_t n; (n = ::recv(fd.get(), bytes, sizeof bytes, 0)) > 0;)
    answer.append(bytes, static_cast<std::size_t>(n));
  if (!answer.starts_with("HTTP/1.1 200 ")) throw std::runtime_error("a scrape was refused");
  return answer.size();
}

/// What `forge top` does, on a thread: reads the statistics whenever there are new ones.
class Watcher {
 public:
  Watcher() : thread_([this] { run(); }) {}
  ~Watcher() {
    stop_ = true;
    thread_.join();
  }
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;
  std::uint64_t pictures() const { return pictures_; }

 private:
  void run() {
    for (const core::FoundSocket& found : core::find_sockets()) {
      if (found.process != ::getpid()) continue;
      const shm::FileDescriptor socket = std::move(core::connect_to(found.path)).value();
      core::FrameWriter out;
      out.push({{"command", "stats"}});
      (void)out.flush(socket.get());  // it fits; if not, no answer comes
      pollfd answer{socket.get(), POLLIN, 0};
      std::string bytes;
      shm::FileDescriptor segment;
      if (::poll(&answer, 1, 5000) != 1 || core::receive(socket.get(), bytes, segment, 0) <= 0)
        return;
      const auto reader = std::move(core::StatisticsReader::open(std::move(segment))).value();
      for (; !stop_; std::this_thread::sleep_for(kLookEvery)) {
        const core::Json seen = core::Json::parse(std::move(reader.read()).value());
        if (seen.contains("services")) ++pictures_;
      }
    }
  }

  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> pictures_{0};
  std::thread thread_;  // last: it uses all of the above
};

/// Scrapes as often as somebody impatient would have Prometheus do it.
class Scraper {
 public:
  explicit Scraper(std::string address)
      : thread_([this, address = std::move(address)] {
          for (; !stop_; std::this_thread::sleep_for(kLookEvery)) (void)scrape(address);
        }) {}
  ~Scraper() {
    stop_ = true;
    thread_.join();
  }
  Scraper(const Scraper&) = delete;
  Scraper& operator=(const Scraper&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

/// The p99 of a call while nobody looks and while somebody does, in turns.
struct Disturbance {
  std::vector<double> alone;
  std::vector<double> watched;
};

Bar undisturbed_bar(std::string name, const Disturbance& seen) {
  const double usual = median(seen.alone);
  Bar bar{std::move(name), "within the noise", "", Verdict::met, "", 0, 0};
  bar.value = median(seen.watched) / usual;
  bar.limit = *std::ranges::max_element(seen.alone) / usual;
  bar.measured = text("%.2f ×", bar.value);
  bar.verdict = bar.value <= bar.limit ? Verdict::met : Verdict::missed;
  bar.note = "p99 " + format_ns(usual) + " alone, at worst " + text("%.2f ×", bar.limit) + "; " +
             format_ns(median(seen.watched)) + " watched four times a second";
  return bar;
}

}  // namespace

std::vector<Bar> reported_bars(const Options& base) {
  Options options = base;
  options.wait = Wait::block;  // calls slow enough that the client's own share of them is none
  options.warmup_s = 0;        // forge counts from the first
  options.duration_s = 5 * base.duration_s;
  Controller controller({.name = "forge-bench", .log_level = LogLevel::error});
  const Service service = start(controller, options, placement(options));
  const LoadResult client = load(options, service);
  const double rate = service.get_metrics().get_total_request_rate(
      std::chrono::nanoseconds(std::llround(client.seconds * 1e9)));
  const MetricsSummary summary = service.get_metrics_summary();
  std::uint64_t counted = 0;
  for (const auto& [idx, replica] : summary.replicas) counted += replica.total_requests;
  const double p99 = summary.endpoints.at(target(options).endpoint).time.total.quantile(0.99) * 1e9;

  Bar counts{"requests, as reported", "equal", "", Verdict::met, "", 0, 0};
  counts.value = std::abs(static_cast<double>(counted) - static_cast<double>(client.sent));
  counts.measured = with_commas(counted);
  counts.verdict = counted == client.sent ? Verdict::met : Verdict::missed;
  counts.note = "the client sent " + with_commas(client.sent);
  const double sent = client.throughput();
  const double tail = client.latency.percentile(0.99);
  return {std::move(counts),
          share_bar("rate, as reported", off_by(rate, sent), 0.01,
                    format_rate(rate) + "; the client's " + format_rate(sent)),
          share_bar("p99, as reported", off_by(p99, tail), 0.02,
                    format_ns(p99) + "; the client's " + format_ns(tail))};
}

Bar watched_bar(const Options& base, int runs) {
  Options options = base;
  options.wait = Wait::spin;
  Controller controller({.name = "forge-bench", .log_level = LogLevel::error});
  const Service service = start(controller, options, placement(options));
  Disturbance seen;
  for (int i = 0; i < runs; ++i) {
    seen.alone.push_back(load(options, service).latency.percentile(0.99));
    const Watcher watcher;
    seen.watched.push_back(load(options, service).latency.percentile(0.99));
    if (watcher.pictures() == 0) throw std::runtime_error("nobody watched");
  }
  return undisturbed_bar("p99 with forge top attached", seen);
}

std::vector<Bar> scrape_bars(const Options& base, int runs) {
  Bar cost{"scrape of 64 replicas", "≤ 5 ms of CPU", "", Verdict::not_measured, "", 0, 5};
  Options options = base;
  options.replicas = 64;
  options.wait = Wait::block;
  ControllerOptions observed{.name = "forge-bench", .log_level = LogLevel::error};
  observed.metrics_address = "0";
  std::optional<Controller> controller;
  try {
    controller.emplace(observed);
  } catch (const NotSupported& error) {
    cost.note = error.what();
    return {std::move(cost)};
  }
  const Service service = start(*controller, options, placement(options));
  const std::string address = controller->metrics_address();
  (void)load(options, service);
  std::vector<double> used;
  std::size_t bytes = 0;
  for (int i = 0; i < 4 * runs; ++i) {
    const double before = cpu_ms_of_others();
    bytes = scrape(address);
    std::this_thread::sleep_for(5ms);  // until the server has put its things away
    used.push_back(cpu_ms_of_others() - before);
  }
  cost.value = median(used);
  cost.measured = text("%.2f ms", cost.value);
  cost.verdict = cost.value <= cost.limit ? Verdict::met : Verdict::missed;
  cost.note = format_bytes(static_cast<double>(bytes)) + ", compressed";

  Disturbance seen;
  for (int i = 0; i < runs; ++i) {
    seen.alone.push_back(load(options, service).latency.percentile(0.99));
    const Scraper scraper(address);
    seen.watched.push_back(load(options, service).latency.percentile(0.99));
  }
  return {std::move(cost), undisturbed_bar("the same: p99 of calls", seen)};
}

}  // namespace forge::bench
