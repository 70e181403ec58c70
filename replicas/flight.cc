#include "replicas/flight.h"

#include <cxxabi.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string_view>

namespace forge::replicas {
namespace {

/// Of the events; a report is to be read at a glance.
constexpr std::size_t kTold = 8;

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), &std::free);
  return status == 0 && text ? text.get() : name;
}

/// "<symbol> <where>", as the crash handler writes it.
std::string frame_of(std::string_view line) {
  std::string text;
  for (const char c : line) text += c >= ' ' && c <= '~' ? c : '?';
  const auto space = text.find(' ');
  if (space == std::string::npos) return text;
  return demangled(text.substr(0, space)) + text.substr(space);
}

std::string ago(std::int64_t ns) {
  char text[32];
  const double ms = static_cast<double>(std::max<std::int64_t>(ns, 0)) / 1e6;
  std::snprintf(text, sizeof(text), ms < 10'000 ? "%9.0f ms" : "%9.3g ms", ms);
  return text;
}

}  // namespace

std::string default_keep_folder() {
  std::error_code none;
  return std::filesystem::temp_directory_path(none) / ("forge-" + std::to_string(::geteuid()));
}

Flight read_flight(const shm::ResponseFile& file) {
  Flight flight;
  const shm::FlightLog log = file.flight;  // copied first: what is checked is what is used
  const std::uint64_t kept = std::min<std::uint64_t>(log.count, shm::kFlightEvents);
  for (std::uint64_t i = log.count - kept; i != log.count; ++i) {
    const shm::FlightEvent& event = log.events[i % shm::kFlightEvents];
    if (event.state < shm::FlightState::running || event.state > shm::FlightState::failed) continue;
    flight.events.push_back(event);
  }
  const shm::CrashNote note = file.crash;
  if (note.signal <= 0 || note.signal >= 65) return flight;
  flight.signal = note.signal;
  flight.address = note.address;
  std::string_view text(note.text, std::min<std::size_t>(note.size, sizeof(note.text)));
  while (!text.empty()) {
    const auto end = text.find('\n');
    if (end != 0) flight.frames.push_back(frame_of(text.substr(0, end)));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return flight;
}

std::vector<std::string> describe(const Flight& flight, std::int64_t died_ns,
                                  const std::function<std::string(std::uint16_t)>& name_of) {
  std::vector<std::string> lines;
  const std::size_t first = flight.events.size() - std::min(flight.events.size(), kTold);
  for (std::size_t i = 0; i < flight.events.size(); ++i) {
    const shm::FlightEvent& event = flight.events[i];
    const bool running = event.state == shm::FlightState::running;
    if (i < first && !running) continue;
    char text[160];
    std::snprintf(
        text, sizeof(text), "%s before: %s, request %llu, %llu B%s, %s",
        ago(died_ns - event.began_ns).c_str(), name_of(event.endpoint).c_str(),
        static_cast<unsigned long long>(event.id), static_cast<unsigned long long>(event.bytes),
        event.requests > 1
            ? (" and " + std::to_string(event.requests - 1) + " more in its batch").c_str()
            : "",
        running                                   ? "was running"
        : event.state == shm::FlightState::failed ? "had failed"
                                                  : "was done");
    lines.emplace_back(text);
  }
  if (flight.signal != 0) {
    const char* const name = ::sigdescr_np(flight.signal);
    char text[96];
    std::snprintf(text, sizeof(text), "signal %d (%s), address 0x%llx, at:", flight.signal,
                  name == nullptr ? "unknown signal" : name,
                  static_cast<unsigned long long>(flight.address));
    lines.emplace_back(text);
    for (const std::string& frame : flight.frames) lines.push_back("  " + frame);
  }
  return lines;
}

}  // namespace forge::replicas
