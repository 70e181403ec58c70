#include "gpu/pin_table.h"

#include <algorithm>
#include <iterator>
#include <string>

namespace forge::gpu {
namespace {

std::uintptr_t begin_of(HostPiece memory) {
  return reinterpret_cast<std::uintptr_t>(memory.data());
}

}  // namespace

PinTable::Claim::~Claim() {
  if (table_) table_->regions_.erase(begin_of(memory_));
}

Result<PinTable::Claim> PinTable::claim(const std::shared_ptr<PinTable>& table, HostPiece memory) {
  if (memory.empty()) {
    return make_error({ErrorCode::invalid_argument, "pinning: there is no memory to pin"});
  }
  // Of those that begin before our end, the last one ends last.
  const auto last = table->last_before(begin_of(memory) + memory.size());
  if (last != table->regions_.end() && last->first + last->second > begin_of(memory)) {
    return make_error(
        {ErrorCode::invalid_argument, "pinning: some of these " + std::to_string(memory.size()) +
                                          " bytes are pinned already; drop that region first"});
  }
  table->regions_.emplace(begin_of(memory), memory.size());
  return Claim(table, memory);
}

HostPiece PinTable::first_run(HostPiece memory) const {
  const std::uintptr_t begin = begin_of(memory);
  const auto next = regions_.upper_bound(begin);
  if (next != regions_.begin()) {
    const auto& [start, size] = *std::prev(next);
    if (begin < start + size) {
      const std::size_t offset = begin - start;
      const std::size_t in_chunk = std::min(chunk_ - offset % chunk_, size - offset);
      return memory.first(std::min(memory.size(), in_chunk));
    }
  }
  if (next == regions_.end()) return memory;
  return memory.first(std::min<std::size_t>(memory.size(), next->first - begin));
}

bool PinTable::covers(HostPiece memory) const {
  while (!memory.empty()) {
    const auto region = last_before(begin_of(memory) + 1);
    if (region == regions_.end()) return false;
    const std::uintptr_t end = region->first + region->second;
    if (end <= begin_of(memory)) return false;
    memory = memory.subspan(std::min<std::size_t>(memory.size(), end - begin_of(memory)));
  }
  return true;
}

PinTable::Regions::const_iterator PinTable::last_before(std::uintptr_t end) const {
  const auto after = regions_.lower_bound(end);
  return after == regions_.begin() ? regions_.end() : std::prev(after);
}

}  // namespace forge::gpu
