#include "core/metrics_exporter.h"

#include <arpa/inet.h>

#include <charconv>
#include <utility>

namespace forge::core {
namespace {

constexpr const char* kModule = "libforge-prometheus.so";
constexpr const char* kThisMachine = "127.0.0.1";

bool is_ip(int family, const std::string& host) {
  unsigned char ignored[sizeof(in6_addr)];
  return ::inet_pton(family, host.c_str(), ignored) == 1;
}

std::shared_ptr<const Error> refused(std::string_view text, const char* why) {
  return make_error({ErrorCode::invalid_argument,
                     "metrics_address '" + std::string(text) + "': " + why +
                         R"(; write "9464" for this machine only, or "10.0.0.7:9464")"});
}

}  // namespace

std::string ListenAddress::to_string() const {
  const bool six = host.find(':') != std::string::npos;
  return (six ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<ListenAddress> parse_listen_address(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  std::string host(text.substr(0, colon == std::string_view::npos ? 0 : colon));
  const std::string_view port = text.substr(colon == std::string_view::npos ? 0 : colon + 1);
  ListenAddress address;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc{} || end != port.data() + port.size())
    return refused(text, "its port is no number from 0 to 65535");
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  address.host = host.empty() || host == "localhost" ? kThisMachine : host;
  if (!is_ip(bracketed ? AF_INET6 : AF_INET, address.host))
    return refused(text, bracketed ? "in brackets stands no IPv6 address"
                                   : "its host is no IPv4 address; IPv6 stands in brackets");
  return address;
}

Result<std::unique_ptr<MetricsExporter>> export_metrics(std::string_view address, Look look) {
  const auto where = parse_listen_address(address);
  if (!where) return where.error_ptr();
  const auto module = shm::open_module(
      shm::library_folder() / kModule, kExporterSymbol, kExporterAbi,
      "build forge with prometheus-cpp (FORGE_PROMETHEUS=ON), or leave metrics_address empty");
  if (!module) return module.error_ptr();
  return reinterpret_cast<const ExporterModule*>(*module)->make(*where, std::move(look));
}

}  // namespace forge::core
