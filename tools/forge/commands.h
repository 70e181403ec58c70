// The commands. Each returns the exit status: 0, or 1 when it could not be done. They throw what keeps
// them from it.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "core/frames.h"

namespace forge::tool {

// look.cc
int ps(bool json);
int stats(const std::string& controller, const std::string& service, bool json);
struct EventsWanted {
  bool follow = false;
  bool json = false;
  int last = 50;
};
int events(const std::string& controller, const EventsWanted& wanted);
/// One line of `forge events` and `forge top`.
std::string event_line(const core::Json& event, bool date);

// act.cc
int drain(const std::string& controller, const std::string& service);
int scale(const std::string& controller, const std::string& service, int count);
struct TraceWanted {
  double seconds = 5;
  std::string output = "trace.json";
};
int trace(const std::string& controller, const TraceWanted& wanted);

// top.cc
struct TopWanted {
  std::string controller = {};
  bool once = false;
  double interval_s = 1;
};
int top(const TopWanted& wanted);

// call.cc
struct CallWanted {
  std::string plugin = {};
  std::string actor = {};
  std::string endpoint = {};
  std::vector<std::string> arguments = {};  ///< JSON, or plain text where text is wanted
  std::string init = "[]";                  ///< of the constructor, a JSON array
  double timeout_s = 0;                     ///< 0: none
};
int call(const CallWanted& wanted);

/// Prints the newest crash reports that workers of this user have left in `folder`.
int postmortem(const std::string& folder, std::size_t count);

}  // namespace forge::tool
