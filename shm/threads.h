#pragma once

#include <functional>
#include <thread>
#include <vector>

namespace forge::shm {

/// Starts a thread that blocks all signals from its first instruction, so that handlers of the host
/// program never run on it. `cpus` empty: anywhere. Throws Unavailable if there is none left.
std::thread start_thread(const char* name, const std::vector<int>& cpus,
                         std::function<void()> body);

}  // namespace forge::shm
