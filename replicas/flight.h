// What a worker did last, and how that is told after its death. shm/flight.h has the layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "shm/control_file.h"

namespace forge::replicas {

/// The worker's end. Its thread alone.
class FlightRecorder {
 public:
  explicit FlightRecorder(shm::FlightLog& log) : log_(log) {}

  /// An execution begins. Returns its number.
  std::uint64_t begin(const shm::RequestSlot& first, std::size_t requests) {
    const std::uint64_t number = log_.count;
    log_.events[number % shm::kFlightEvents] = {shm::packed(first.id),
                                                shm::coarse_now_ns(),
                                                first.block_size,
                                                first.endpoint,
                                                static_cast<std::uint16_t>(requests),
                                                shm::FlightState::running};
    log_.count = number + 1;
    return number;
  }
  /// It may have begun so long ago that its place is another's now.
  void end(std::uint64_t number, bool failed) {
    if (log_.count - number > shm::kFlightEvents) return;
    log_.events[number % shm::kFlightEvents].state =
        failed ? shm::FlightState::failed : shm::FlightState::answered;
  }

 private:
  shm::FlightLog& log_;
};

/// A copy of what the worker left behind, in which everything is one of the values it may have.
struct Flight {
  std::vector<shm::FlightEvent> events;  ///< oldest first
  int signal = 0;                        ///< that it wrote down before it died of it
  std::uint64_t address = 0;             ///< where the fault was, if it was one
  std::vector<std::string> frames;       ///< of its stack, innermost first, names demangled
};
Flight read_flight(const shm::ResponseFile& file);

/// Lines for people; none if there is nothing to tell. `died_ns`: on the same clock as the events;
/// `name_of`: an endpoint's by its number.
std::vector<std::string> describe(const Flight& flight, std::int64_t died_ns,
                                  const std::function<std::string(std::uint16_t)>& name_of);

/// Where what deaths leave behind is kept, unless ControllerOptions::poison_dir says otherwise.
std::string default_keep_folder();

/// Set to something but 0 in a worker's environment, it asks for the stack of crashes. Without it all
/// signals are as the system has them.
inline constexpr const char* kBacktraceVariable = "FORGE_BACKTRACE";
bool wants_backtrace();

/// From now on SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT leave a note of where they struck, before
/// they end the process as they always do. Once, on the thread that runs the actor. Does nothing
/// under sanitizers, which have reports of their own.
void note_crashes(shm::CrashNote& note);

}  // namespace forge::replicas
