// The only source that sees spdlog and fmt, both header-only: workers load libforge-serve too, and would
// have to load theirs. Compiled with hidden symbols, because the embedding program may have another
// spdlog of its own.
#define FMT_HEADER_ONLY
#include "core/log.h"

#include <spdlog/details/os.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
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

LogLevel from_spdlog(spdlog::level::level_enum level) {
  return std::find_if(std::begin(kLevels), std::end(kLevels),
                      [&](const auto& pair) { return pair.second == level; })
      ->first;
}

std::string what_is_thrown() {
  try {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "something that is no exception";
  }
}

/// On standard error, if that can be.
void say(std::string text) {
  try {
    (void)Outlet::standard(STDERR_FILENO)->offer(LogLevel::error, std::move(text));
  } catch (const Error&) {  // there is no thread for it
  }
}

/// An outlet for a function of the embedding program. What that throws is told on standard error: the
/// first time, and then whenever the count has doubled.
std::shared_ptr<Outlet> outlet_to(OnLog on_log) {
  auto sink = [on_log = std::move(on_log), thrown = std::uint64_t{0}](
                  LogLevel level, std::string_view text) mutable {
    try {
      on_log(level, text);
    } catch (...) {
      ++thrown;
      if ((thrown & (thrown - 1)) != 0) return;
      say("forge [error] on_log threw: " + what_is_thrown() + " (" + std::to_string(thrown) +
          " times so far); the line was: " + std::string(text) + "\n");
    }
  };
  return std::make_shared<Outlet>("forge-log", std::move(sink), [](std::uint64_t lines) {
    return Outlet::Text{LogLevel::warning,
                        std::to_string(lines) +
                            " lines were dropped here: on_log takes them slower than they come"};
  });
}

/// As spdlog shows levels on a terminal.
std::string_view colour_of(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::debug:
      return "\033[36m";
    case spdlog::level::info:
      return "\033[32m";
    case spdlog::level::warn:
      return "\033[33m\033[1m";
    default:
      return "\033[31m\033[1m";
  }
}

/// Puts lines into an outlet, and never waits for it.
class Sink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  /// `plain`: the text alone, as it is.
  Sink(std::shared_ptr<Outlet> outlet, bool plain) : outlet_(std::move(outlet)), plain_(plain) {
    set_pattern_(kPattern);
    colours_ = !plain && ::isatty(STDERR_FILENO) != 0 && spdlog::details::os::is_color_terminal();
  }
  void drain() {
    if (const auto outlet = get()) outlet->drain();
  }
  void close() {
    drain();
    std::unique_lock lock(mutex_);
    const auto outlet = std::exchange(outlet_, nullptr);
    lock.unlock();  // its end may take a while
  }

 private:
  std::shared_ptr<Outlet> get() {
    const std::lock_guard lock(mutex_);
    return outlet_;
  }
  void sink_it_(const spdlog::details::log_msg& line) override {
    if (!outlet_) return;
    const LogLevel level = from_spdlog(line.level);
    if (plain_) {
      (void)outlet_->offer(level, std::string(line.payload.data(), line.payload.size()));
      return;
    }
    spdlog::memory_buf_t formatted;
    formatter_->format(line, formatted);
    std::string text(formatted.data(), formatted.size());
    if (colours_ && line.color_range_end > line.color_range_start) {
      text.insert(line.color_range_end, "\033[m");
      text.insert(line.color_range_start, colour_of(line.level));
    }
    (void)outlet_->offer(level, std::move(text));
  }
  void flush_() override {}

  std::shared_ptr<Outlet> outlet_;  // null: closed
  const bool plain_;
  bool colours_ = false;
};

}  // namespace

/// Closed with the last copy of the log.
struct Log::Writer {
  explicit Writer(OnLog on_log)
      : sink(on_log ? std::make_shared<Sink>(outlet_to(std::move(on_log)), true)
                    : std::make_shared<Sink>(Outlet::standard(STDERR_FILENO), false)),
        logger("forge", sink) {
    logger.set_error_handler([](const std::string&) {});  // its own waits for standard error
  }
  ~Writer() { sink->close(); }
  const std::shared_ptr<Sink> sink;
  spdlog::logger logger;
};

Log::Log(LogLevel level, OnLog on_log) : writer_(std::make_shared<Writer>(std::move(on_log))) {
  ::tzset();                                          // or the first line would, on whatever thread
  const char* const name = std::getenv("FORGE_LOG");  // NOLINT(concurrency-mt-unsafe)
  const auto named = level_called(name == nullptr ? "" : name);
  if (name != nullptr && *name != '\0' && !named) {
    // At any level: who sets it wants to see something.
    writer_->logger.warn(
        std::string("FORGE_LOG is '") + name +
        "', which is no level; set it to debug, info, warning, error or off. Until "
        "then ControllerOptions::log_level counts");
  }
  writer_->logger.set_level(to_spdlog(named.value_or(level)));
}

void Log::operator()(LogLevel level, std::string_view text) const {
  try {
    writer_->logger.log(to_spdlog(level), spdlog::string_view_t(text.data(), text.size()));
  } catch (...) {  // there was no memory for it
  }
}

void Log::drain() const { writer_->sink->drain(); }

void Log::close() const { writer_->sink->close(); }

}  // namespace forge::core
