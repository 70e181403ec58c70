// What a worker leaves behind, and what is made of it whatever it is.
#include "replicas/flight.h"

#include <gmock/gmock.h>

#include <cstring>
#include <memory>

#include "tests/random.h"

namespace forge::replicas {
namespace {

using shm::FlightState;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Flights : public ::testing::Test {
 protected:
  std::uint64_t begin(std::uint32_t entry, std::size_t requests = 1) {
    shm::RequestSlot slot{};
    slot.id = {entry, 1};
    slot.endpoint = 2;
    slot.block_size = 100;
    return recorder_.begin(slot, requests);
  }
  std::vector<std::string> told() const {
    return describe(read_flight(*file_), shm::coarse_now_ns(),
                    [](std::uint16_t endpoint) { return "endpoint" + std::to_string(endpoint); });
  }

  const std::unique_ptr<shm::ResponseFile> file_ = std::make_unique<shm::ResponseFile>();
  FlightRecorder recorder_{file_->flight};
};

TEST_F(Flights, HaveNothingToTellAtFirst) { EXPECT_TRUE(told().empty()); }

TEST_F(Flights, TellWhatWasDoneAndWhatWasRunning) {
  recorder_.end(begin(1), false);
  recorder_.end(begin(2), true);
  begin(3, 8);
  EXPECT_THAT(told(), ElementsAre(HasSubstr("endpoint2, request 4294967297, 100 B, was done"),
                                  HasSubstr("had failed"),
                                  HasSubstr("and 7 more in its batch, was running")));
}

TEST_F(Flights, KeepTheLastEvents) {
  for (std::uint32_t i = 1; i <= 3 * shm::kFlightEvents; ++i) recorder_.end(begin(i), false);
  const Flight flight = read_flight(*file_);
  ASSERT_EQ(flight.events.size(), shm::kFlightEvents);
  EXPECT_EQ(shm::unpacked(flight.events.front().id).entry, 2 * shm::kFlightEvents + 1);
  EXPECT_EQ(shm::unpacked(flight.events.back().id).entry, 3 * shm::kFlightEvents);
}

TEST_F(Flights, TellWhatHasRunForLongBesideTheLastOnes) {
  const std::uint64_t slow = begin(1);
  for (std::uint32_t i = 2; i <= shm::kFlightEvents; ++i) recorder_.end(begin(i), false);
  EXPECT_THAT(told().front(), HasSubstr("was running"));
  recorder_.end(begin(100), false);  // takes its place
  recorder_.end(slow, false);        // which is not its own any more
  EXPECT_THAT(told().front(), HasSubstr("was done"));
  EXPECT_EQ(read_flight(*file_).events.size(), shm::kFlightEvents);
}

TEST_F(Flights, NameTheSignalAndTheFrames) {
  file_->crash.signal = 11;
  file_->crash.address = 0x10;
  const std::string text = "_ZN5forge3dieEv libx.so+0x12\n? 0x99\n";
  std::memcpy(file_->crash.text, text.data(), text.size());
  file_->crash.size = static_cast<std::uint32_t>(text.size());
  EXPECT_THAT(told(), ElementsAre(HasSubstr("signal 11 (Segmentation fault), address 0x10"),
                                  "  forge::die() libx.so+0x12", "  ? 0x99"));
}

TEST_F(Flights, AreReadWhateverTheBytesAre) {
  auto random = tests::seeded();
  for (int i = 0; i < 2000; ++i) {
    auto* const bytes = reinterpret_cast<unsigned char*>(file_.get());
    const std::size_t begin = offsetof(shm::ResponseFile, flight);
    for (std::size_t at = begin; at < sizeof(shm::ResponseFile); ++at)
      bytes[at] = static_cast<unsigned char>(tests::below(random, 256));
    if (i % 2 == 0) file_->crash.signal = 6;
    for (const std::string& line : told())
      for (const char c : line) ASSERT_TRUE(c >= ' ') << "nothing that a terminal would obey";
  }
}

}  // namespace
}  // namespace forge::replicas
