#include "core/statistics_segment.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "shm/control_file.h"

namespace forge::core {
namespace {

using Word = std::atomic<std::uint64_t>;
constexpr std::size_t kWord = sizeof(std::uint64_t);
constexpr std::size_t kLargest = std::size_t{256} << 20;
/// Reading takes microseconds, and the writer comes by four times a second.
constexpr int kAttempts = 100;

std::size_t size_for(std::size_t capacity) { return kStatisticsBuffers + 2 * capacity; }

std::shared_ptr<const Error> foreign(const std::string& what) {
  return make_error({ErrorCode::invalid_argument,
                     "this is no statistics segment of forge: " + what +
                         "; use the forge command of the controller's installation"});
}

}  // namespace

Result<StatisticsWriter> StatisticsWriter::create(std::size_t capacity, std::uint32_t period_ms) {
  capacity = shm::page_up(capacity);
  const std::size_t size = size_for(capacity);
  auto segment = shm::Segment::create(
      {.name = "forge:statistics", .size = size, .reserved = size, .writer = shm::Writer::creator});
  if (!segment) return segment.error_ptr();
  auto& header = *new (segment->data()) StatisticsHeader{};
  header.magic = StatisticsHeader::kMagic;
  header.version = StatisticsHeader::kVersion;
  header.pid = ::getpid();
  header.capacity = capacity;
  header.period_ms = period_ms;
  return StatisticsWriter(std::move(*segment));
}

bool StatisticsWriter::write(std::string_view text) {
  auto& header = *reinterpret_cast<StatisticsHeader*>(segment_.data());
  if (text.size() > header.capacity) return false;
  const std::uint64_t number = header.snapshots.load(std::memory_order_relaxed) + 1;
  auto* const words =
      reinterpret_cast<Word*>(segment_.data() + kStatisticsBuffers + number % 2 * header.capacity);
  // Release, each of them: who sees a word of this snapshot sees, too, that the one before is out.
  header.lengths[number % 2].store(text.size(), std::memory_order_release);
  for (std::size_t at = 0; at < text.size(); at += kWord) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + at, std::min(kWord, text.size() - at));
    words[at / kWord].store(word, std::memory_order_release);
  }
  header.snapshots.store(number, std::memory_order_release);
  return true;
}

Result<StatisticsReader> StatisticsReader::open(shm::FileDescriptor fd) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return foreign("it cannot be looked at");
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return foreign("its size may change");
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size < kStatisticsBuffers || size > kLargest)
    return foreign("it has " + std::to_string(size) + " bytes");
  auto segment = shm::Segment::attach(std::move(fd), shm::Access::read_only);
  if (!segment) return segment.error_ptr();
  const auto& header = *reinterpret_cast<const StatisticsHeader*>(segment->data());
  if (header.magic != StatisticsHeader::kMagic) return foreign("it begins with other bytes");
  if (header.version != StatisticsHeader::kVersion)
    return foreign("it is of version " + std::to_string(header.version));
  const std::uint64_t capacity = header.capacity;
  if (capacity % kWord != 0 || capacity > kLargest || size_for(capacity) > size)
    return foreign("its buffers are larger than itself");
  return StatisticsReader(std::move(*segment), capacity);
}

Result<std::string> StatisticsReader::read() const {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::uint64_t number = snapshots();
    if (number == 0) {
      return make_error(
          {ErrorCode::unavailable, "the controller has not written any statistics yet"});
    }
    const auto* const words = reinterpret_cast<const Word*>(segment_.data() + kStatisticsBuffers +
                                                            number % 2 * capacity_);
    const std::uint64_t length = header().lengths[number % 2].load(std::memory_order_acquire);
    if (length > capacity_) continue;
    std::string text(length, '\0');
    for (std::size_t at = 0; at < text.size(); at += kWord) {
      const std::uint64_t word = words[at / kWord].load(std::memory_order_acquire);
      std::memcpy(text.data() + at, &word, std::min(kWord, text.size() - at));
    }
    if (snapshots() == number) return text;
  }
  return make_error(
      {ErrorCode::invalid_argument,
       "the statistics segment is torn: it never holds still; is its controller forge's?"});
}

}  // namespace forge::core
