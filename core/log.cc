// The only source that sees spdlog and fmt, both header-only: workers load libforge-serve too, and would
// have to load theirs. Compiled with hidden symbols, because the embedding program may have another
// spdlog of its own.
#define FMT_HEADER_ONLY
#include "core/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

namespace forge::core {
namespace {

constexpr const char* kPattern = "%Y-%m-%d %H:%M:%S.%e forge [%^%l%$] %v";
constexpr std::pair<LogLevel, spdlog::level::level_enum> kLevels[] = {
    {LogLevel::debug, spdlog::level::debug},  {LogLevel::info, spdlog::level::info},
    {LogLevel::warning, spdlog::level::warn}, {LogLevel::error, spdlog::level::err},
    {LogLevel::off, spdlog::level::off},
};

spdlog::level::level_enum to_spdlog(LogLevel level) {
  return kLevels[static_cast<std::size_t>(level)].second;
}

std::optional<LogLevel> level_called(std::string_view name) {
  for (const auto& [level, theirs] : kLevels) {
    if (name == to_string(level)) return level;
  }
  return std::nullopt;
}

/// Hands lines to a function of the embedding program, without anything around them.
class Callback final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit Callback(Log on_log) : on_log_(std::move(on_log)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& line) override {
    for (const auto& [level, theirs] : kLevels) {
      if (theirs == line.level) on_log_(level, {line.payload.data(), line.payload.size()});
    }
  }
  void flush_() override {}

  const Log on_log_;
};

spdlog::sink_ptr make_sink(Log on_log) {
  if (on_log) return std::make_shared<Callback>(std::move(on_log));
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  sink->set_pattern(kPattern);
  return sink;
}

}  // namespace

Log open_log(LogLevel level, Log on_log) {
  const auto logger = std::make_shared<spdlog::logger>("forge", make_sink(std::move(on_log)));
  const char* const name = std::getenv("FORGE_LOG");
  const auto named = level_called(name == nullptr ? "" : name);
  if (name != nullptr && *name != '\0' && !named) {
    // At any level: who sets it wants to see something.
    logger->warn(std::string("FORGE_LOG is '") + name +
                 "', which is no level; set it to debug, info, warning, error or off. Until then "
                 "ControllerOptions::log_level counts");
  }
  logger->set_level(to_spdlog(named.value_or(level)));
  return [logger](LogLevel of, std::string_view text) {
    try {  // spdlog reports what derives from std::exception on standard error, and throws the rest
      logger->log(to_spdlog(of), spdlog::string_view_t(text.data(), text.size()));
    } catch (...) {
    }
  };
}

}  // namespace forge::core
