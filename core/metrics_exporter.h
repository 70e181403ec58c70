// Metrics over HTTP, for Prometheus to scrape. Who does it is a module of its own (prometheus/), loaded by
// controllers that were told to: neither workers nor other controllers load a web server.
#pragma once

#include <forge/result.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/statistics.h"
#include "shm/module.h"

namespace forge::core {

/// Where to listen.
struct ListenAddress {
  std::string host;  ///< an IP address
  std::uint16_t port = 0;

  std::string to_string() const;  ///< "127.0.0.1:9464", "[::1]:9464"
};

/// Of "9464", ":9464", "localhost:9464", "10.0.0.7:9464" or "[::1]:9464"; without a host: 127.0.0.1.
/// Error: InvalidArgument.
Result<ListenAddress> parse_listen_address(std::string_view text);

/// Serves until it is dropped, with threads of its own that block all signals. Dropping it waits for
/// answers that are under way.
class MetricsExporter {
 public:
  virtual ~MetricsExporter() = default;
  virtual std::string address() const = 0;
};

/// Called for each scrape, by any thread.
using Look = std::function<ControllerView()>;

/// Changes with this file and with statistics.h.
inline constexpr std::uint32_t kExporterAbi = 1;
inline constexpr const char* kExporterSymbol = "forge_exporter_module";

/// What the module exports.
struct ExporterModule {
  shm::ModuleHeader header;
  Result<std::unique_ptr<MetricsExporter>> (*make)(const ListenAddress& address, Look look);
};

/// Errors: InvalidArgument if that is no address; Unavailable if it is in use; NotSupported if this
/// build of forge has no such module.
Result<std::unique_ptr<MetricsExporter>> export_metrics(std::string_view address, Look look);

}  // namespace forge::core
