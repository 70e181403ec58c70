// prometheus-cpp's web server, asking forge at each scrape.
#include <prometheus/exposer.h>

#include <exception>

#include "core/metrics_exporter.h"
#include "core/prometheus/families.h"
#include "shm/threads.h"

namespace forge::core {
namespace {

/// Connections that say nothing, or do not read what they asked for, are given up, and there are more
/// threads than a few of them can hold: Prometheus gives up itself after ten seconds. More connections
/// than threads and queue have room for wait outside, in the kernel.
std::vector<std::string> server_options(const ListenAddress& address) {
  return {"listening_ports",    address.to_string(),
          "num_threads",        "16",
          "request_timeout_ms", "2000",
          "connection_queue",   "64",
          "listen_backlog",     "64"};
}

class Families final : public prometheus::Collectable {
 public:
  explicit Families(Look look) : look_(std::move(look)) {}
  std::vector<prometheus::MetricFamily> Collect() const override { return families_of(look_()); }

 private:
  const Look look_;
};

class PrometheusExporter final : public MetricsExporter {
 public:
  PrometheusExporter(ListenAddress address, Look look)
      : address_(std::move(address)),
        families_(std::make_shared<Families>(std::move(look))),
        exposer_(server_options(address_)) {
    exposer_.RegisterCollectable(families_);
    const std::vector<int> ports = exposer_.GetListeningPorts();
    if (!ports.empty()) address_.port = static_cast<std::uint16_t>(ports.front());
  }
  std::string address() const override { return address_.to_string(); }

 private:
  ListenAddress address_;
  const std::shared_ptr<Families> families_;
  prometheus::Exposer exposer_;  // last: its threads use all of the above
};

Result<std::unique_ptr<MetricsExporter>> make(const ListenAddress& address, Look look) {
  const shm::BlockedSignals blocked;  // for the server's threads
  try {
    return std::make_unique<PrometheusExporter>(address, std::move(look));
  } catch (const std::exception& error) {
    return make_error(
        {ErrorCode::unavailable,
         "metrics_address " + address.to_string() +
             " cannot be listened on: another program has the port, or the address is "
             "not this machine's; choose another, or port 0 for any (" +
             error.what() + ")"});
  }
}

}  // namespace
}  // namespace forge::core

extern "C" {
__attribute__((
    visibility("default"))) extern const forge::core::ExporterModule forge_exporter_module;
const forge::core::ExporterModule forge_exporter_module{
    {forge::core::kExporterAbi, 0, FORGE_VERSION}, &forge::core::make};
}
