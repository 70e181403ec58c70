#include "gpu/nccl_communicator.h"

#include <future>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

namespace forge::gpu {

nccl::Code NcclCommunicator::begin(int ranks, const nccl::UniqueId& id, int rank) {
  nccl::Config config;
  config.blocking = 0;
  return library_.call.CommInitRankConfig(&handle_, ranks, id, rank, &config);
}

nccl::Code NcclCommunicator::state() const {
  if (handle_ == nullptr) return nccl::Code::invalid_usage;
  nccl::Code code = nccl::Code::success;
  const nccl::Code asked = library_.call.CommGetAsyncError(handle_, &code);
  return asked == nccl::Code::success ? code : asked;
}

std::string NcclCommunicator::explain(nccl::Code code) const {
  std::string text = "NCCL " + nccl_version_text(library_.version) + ": ";
  text += library_.call.GetErrorString(code);
  // Of this thread's last call; null is allowed.
  const char* const last = library_.call.GetLastError(handle_);
  if (last != nullptr && *last != '\0') text += std::string(" (") + last + ")";
  return text;
}

bool NcclCommunicator::abort() noexcept {
  nccl::Communicator* const handle = std::exchange(handle_, nullptr);
  if (handle == nullptr) return true;
  const auto function = library_.call.CommAbort;
  try {
    // Not std::async, whose future waits when it dies.
    auto over = std::make_shared<std::promise<void>>();
    const std::future<void> end = over->get_future();
    std::thread thread([function, handle, over] {
      (void)function(handle);
      over->set_value_at_thread_exit();
    });
    if (end.wait_for(abort_time_) == std::future_status::ready) {
      thread.join();
      return true;
    }
    thread.detach();
    return false;
  } catch (const std::exception&) {
    // No thread is to be had. Then it may take as long as it wants.
    (void)function(handle);
    return true;
  }
}

void NcclCommunicator::close(const std::function<bool()>& go_on) noexcept {
  if (handle_ == nullptr) return;
  nccl::Code code = library_.call.CommFinalize(handle_);
  while (code == nccl::Code::in_progress && go_on()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    code = state();
  }
  if (code != nccl::Code::success) {
    abort();
    return;
  }
  (void)library_.call.CommDestroy(std::exchange(handle_, nullptr));
}

}  // namespace forge::gpu
