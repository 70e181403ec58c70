#pragma once

#include <signal.h>

#include <functional>
#include <thread>
#include <vector>

namespace forge::shm {

/// While it lives, this thread blocks all signals, and so do threads that it starts, for good.
class BlockedSignals {
 public:
  BlockedSignals();
  ~BlockedSignals();
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

/// Starts a thread that blocks all signals from its first instruction, so that handlers of the host
/// program never run on it. `cpus` empty: anywhere. Throws Unavailable if there is none left.
std::thread start_thread(const char* name, const std::vector<int>& cpus,
                         std::function<void()> body);

/// Was this thread started by start_thread()? Others wait for what it does.
bool on_own_thread();

}  // namespace forge::shm
