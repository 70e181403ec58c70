// The system calls, and additions to older ones, that are newer than Linux 3.10. A kernel, an
// emulation (valgrind, gVisor) or a sandbox (seccomp) may not have them, and says ENOSYS, EPERM or
// EINVAL. This table says what forge, or the C library for it, does then.
#pragma once

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>

namespace forge::shm {

struct SystemCall {
  std::string_view name;
  std::string_view since;    ///< of Linux
  std::string_view without;  ///< empty: forge cannot work
};

inline constexpr SystemCall kSystemCalls[] = {
    {"memfd_create", "3.17", ""},
    {"fcntl(F_ADD_SEALS)", "3.17", ""},
    {"fcntl(F_SEAL_FUTURE_WRITE)", "5.1",
     "workers map requests and arena read-only, but a worker that means harm could map them anew"},
    {"memfd_create(MFD_NOEXEC_SEAL)", "6.3", "memory could be executed, by who maps it so"},
    {"pidfd_open", "5.3",
     "a worker's end is seen by asking every 5 ms; workers ask every 100 ms whether their parent "
     "lives; a program that reaps forge's workers itself may confuse them with later children"},
    {"pidfd_send_signal", "5.1", "signals go to the number of a process that is not reaped yet"},
    {"pidfd_send_signal(PIDFD_SIGNAL_PROCESS_GROUP)", "6.9",
     "what a worker started lives on if the worker ends by itself and the program, which ignores "
     "SIGCHLD or reaps all children, reaps it before forge does"},
    {"waitid(P_PIDFD)", "5.4", "waits for the number of the process"},
    {"futex_waitv", "5.16",
     "workers ring the engine's thread by an eventfd; a worker with coroutines that wait looks "
     "after them every millisecond"},
    {"madvise(MADV_POPULATE_READ, MADV_POPULATE_WRITE)", "5.14",
     "pages fault in one by one at their first use; a worker whose actor has closed its "
     "descriptors gets no further memory for answers"},
    {"clone3", "5.3", "the C library starts threads and processes by clone (ENOSYS only)"},
    {"close_range", "5.9", "the C library closes descriptors one by one"},
    {"getrandom", "3.17", "the C++ library asks the processor or /dev/urandom"},
    {"rseq", "4.18", "the C library asks the kernel for the number of its core"},
    {"statx, faccessat2", "4.11, 5.8", "the C library uses stat and faccessat"},
};

/// "; allow memfd_create (Linux 3.17) in this sandbox", for errors of what forge cannot do without.
inline std::string must_allow(std::string_view name) {
  const auto* const call = std::ranges::find(kSystemCalls, name, &SystemCall::name);
  const std::string since =
      call == std::end(kSystemCalls) ? "" : " (Linux " + std::string(call->since) + ")";
  return "; allow " + std::string(name) + since + " in this sandbox";
}

}  // namespace forge::shm
