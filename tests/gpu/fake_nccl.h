// What a test says to the NCCL it has made up (fake_nccl.cc), and asks it afterwards.
#pragma once

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <stdexcept>

namespace forge::tests {

struct FakeNccl {
  static constexpr int kMostRanks = 8;

  // What is to happen.
  std::atomic<bool> id_fails{false};
  std::atomic<int> init_fails_at{-1};         ///< this rank's call
  std::atomic<bool> init_hangs{false};        ///< nobody's communicator comes to be
  std::atomic<bool> collective_hangs{false};  ///< in NCCL, before it is in the stream
  std::atomic<bool> kernel_hangs{false};      ///< in the stream; see `running`
  std::atomic<int> collective_fails_at{-1};   ///< this rank's call
  std::atomic<int> remote_error_at{-1};       ///< this rank's communicator, once in a collective
  std::atomic<bool> finalize_hangs{false};
  std::atomic<bool> abort_hangs{false};

  // What has happened.
  std::atomic<int> ids{0};
  std::atomic<int> inits{0};
  std::atomic<int> collectives{0};
  std::atomic<int> aborts{0};
  std::atomic<int> destroyed{0};
  std::atomic<int> living{0};                           ///< communicators
  std::array<std::atomic<bool>, kMostRanks> running{};  ///< a kernel of that rank, until it aborts
};

/// Of the library that was loaded from there.
inline FakeNccl& fake_nccl(const char* path) {
  void* const library = ::dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) throw std::runtime_error("the fake NCCL has not been loaded");
  const auto control = reinterpret_cast<FakeNccl* (*)()>(::dlsym(library, "fake_nccl"));
  ::dlclose(library);
  return *control();
}

}  // namespace forge::tests
