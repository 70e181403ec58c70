// The tally from the program's side: memory that workers map by its path, and nothing of it is left
// when the program ends.
#pragma once

#include <cstddef>
#include <string>

#include "shm/file_descriptor.h"
#include "tools/plugins/chaos/tally.h"

namespace forge::bench {

class ChaosTally {
 public:
  /// Throws std::system_error if there is no memory.
  explicit ChaosTally(std::size_t slots);
  ChaosTally(const ChaosTally&) = delete;
  ChaosTally& operator=(const ChaosTally&) = delete;
  ~ChaosTally();

  chaos::Tally& operator*() const { return *tally_; }
  chaos::Tally* operator->() const { return tally_; }
  chaos::Executions& executions(std::size_t slot) const { return tally_->executions()[slot]; }
  std::size_t slots() const { return slots_; }
  /// Opens it in another process, while this one lives.
  std::string path() const;

 private:
  std::size_t slots_;
  shm::FileDescriptor fd_;
  chaos::Tally* tally_;
};

}  // namespace forge::bench
