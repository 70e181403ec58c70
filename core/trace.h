// A recording of what requests did and when, and how ui.perfetto.dev and chrome://tracing read it. Pure.
//
// There, each service is a process. A request is an asynchronous event named after its endpoint, from the
// call to the answer, and below it are the stretches of its way: batch_wait, queue, transport, execution,
// transport, without gaps; "away" is all of the time at a worker that did not leave its own times. A
// replica has a track with its executions, a batch once, and with what happened to it.
#pragma once

#include <forge/error.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/event_log.h"

namespace forge::core {

/// A request that is over. Times are CLOCK_MONOTONIC; 0: that did not happen, or nobody knows when.
struct TraceSpan {
  std::uint64_t request = 0;  ///< its id, packed
  std::uint32_t service = 0;  ///< in Trace::services
  std::uint16_t endpoint = 0;
  std::uint16_t attempt = 0;          ///< the last one; 0: it was never sent
  std::int32_t replica = -1;          ///< -1: none was chosen
  std::uint64_t incarnation = 0;      ///< 0: it was never sent
  std::uint32_t batch = 1;            ///< calls it was executed with; 0: another one of them knows
  ErrorCode outcome = ErrorCode::ok;  ///< what its caller got
  std::string session = {};           ///< empty: none
  std::int64_t called_ns = 0;
  std::int64_t left_ns = 0;     ///< its batch
  std::int64_t sent_ns = 0;     ///< to a worker
  std::int64_t started_ns = 0;  ///< by the worker's clock, as is the next
  std::int64_t ended_ns = 0;
  std::int64_t over_ns = 0;
};

struct TraceService {
  std::string name;
  std::string actor;
  std::vector<std::string> endpoints;
};

struct Trace {
  std::string controller;  ///< for people
  std::int64_t began_ns = 0;
  std::int64_t ended_ns = 0;
  std::vector<TraceService> services = {};
  std::vector<TraceSpan> spans = {};
  std::uint64_t dropped = 0;  ///< requests for which there was no room
  std::vector<Event> events = {};
  std::uint64_t missed_events = 0;
};

/// As JSON in the Trace Event Format. What workers said of their times is bent into the time they had.
std::string render(const Trace& trace);

}  // namespace forge::core
