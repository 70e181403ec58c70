// How a worker ends with the program that started it, whatever its actor does to the process.
#pragma once

#include <sys/types.h>

namespace forge::replicas {

/// Marks every descriptor from `first` on, up to the first number that is not open, close-on-exec:
/// what an actor starts inherits none of them.
void close_on_exec_from(int first);

/// Starts a thread, with all signals blocked, that sends SIGKILL to this process's group and to this
/// process once `expected_parent` is dead. Replaces the signal of die_with_parent(), which would
/// end this process before its group, and which the kernel forgets when the process changes its
/// user. Without a thread to be had, that signal stays.
///
/// What left the process group (setsid, setpgid) lives on: it asked to. So does a member that belongs
/// to a user whom this process, having changed its own, may not kill.
void watch_parent(pid_t expected_parent);

}  // namespace forge::replicas
