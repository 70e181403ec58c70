// What a life's end says of its replica: facts become a kind of death, from which the supervisor decides
// whether and when the next life begins. Pure.
#pragma once

#include "replicas/supervisor.h"

namespace forge::core {

/// How a life ended, when all of its workers have been reaped.
struct Ending {
  bool requested = false;     ///< we, or its actor by restart_on_error, wanted it to end
  bool by_call = false;       ///< one call is known to be the reason: poison, or exec_timeout
  bool came_up = false;       ///< its setup() had returned
  bool answered = false;      ///< it had answered a call
  bool working = false;       ///< it had started a call and not answered it
  bool device_lost = false;   ///< its device failed under it
  bool from_outside = false;  ///< a SIGKILL or SIGSTOP that forge did not send
  bool shortage = false;      ///< the system had no process, memory or descriptor for it
};

replicas::Death classify(const Ending& ending);

}  // namespace forge::core
