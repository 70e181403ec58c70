#include "gpu/nccl_rendezvous.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

namespace forge::gpu {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kVersion = nccl::kDeclaredVersion;

TEST(NcclRendezvous, KeepsACommunicatorThatAllRanksHold) {
  struct Case {
    std::vector<std::uint64_t> generations;
    bool same;
  };
  for (const auto& [generations, same] :
       {Case{{0}, false}, Case{{1}, true}, Case{{0, 0}, false}, Case{{2, 2, 2}, true},
        Case{{2, 2, 0}, false}, Case{{0, 2, 2}, false}, Case{{2, 1, 2}, false}}) {
    EXPECT_EQ(hold_the_same(generations), same) << ::testing::PrintToString(generations);
  }
}

TEST(NcclRendezvous, LetsRanksOnDifferentDevicesMeet) {
  EXPECT_TRUE(judge(std::vector{make_card({}, kVersion, "GPU-a")}, {}).ok());
  EXPECT_TRUE(judge(std::vector{make_card({}, kVersion, "GPU-a"), make_card({}, kVersion, "GPU-b"),
                                make_card({}, kVersion, "MIG-c")},
                    {})
                  .ok());
}

TEST(NcclRendezvous, RefusesTwoRanksOnOneDevice) {
  const std::string uuid = "GPU-01234567-89ab-cdef-0123-456789abcdef";
  const Status status =
      judge(std::vector{make_card({}, kVersion, "GPU-b"), make_card({}, kVersion, uuid),
                        make_card({}, kVersion, "GPU-c"), make_card({}, kVersion, uuid)},
            {});
  EXPECT_EQ(status.code, ErrorCode::invalid_argument);
  EXPECT_THAT(status.message, AllOf(HasSubstr("rank 1 and rank 3 share the device " + uuid),
                                    HasSubstr("gpu_share"), HasSubstr("to_host()")));
}

TEST(NcclRendezvous, TellsDevicesApartByNamesAsLongAsACardHasRoomFor) {
  const std::string longest(56, 'x');
  EXPECT_FALSE(
      judge(std::vector{make_card({}, 1, longest), make_card({}, 1, longest + "y")}, {}).ok());
  EXPECT_TRUE(judge(std::vector{make_card({}, 1, longest), make_card({}, 1, "x")}, {}).ok());
}

TEST(NcclRendezvous, SaysWhichRankHasNoNccl) {
  const Status none{ErrorCode::not_supported, "too old; install a newer one"};
  const std::vector cards{make_card({}, kVersion, "GPU-a"), make_card(none, 0, "GPU-b")};
  const Status others = judge(cards, {});
  EXPECT_EQ(others.code, ErrorCode::unavailable);
  EXPECT_THAT(others.message, HasSubstr("rank 1 cannot load NCCL"));
  const Status own = judge(cards, none);
  EXPECT_EQ(own.code, ErrorCode::not_supported);
  EXPECT_EQ(own.message, none.message);
}

TEST(NcclRendezvous, RefusesTwoVersions) {
  const Status status =
      judge(std::vector{make_card({}, 22809, "GPU-a"), make_card({}, 22105, "GPU-b")}, {});
  EXPECT_EQ(status.code, ErrorCode::invalid_argument);
  EXPECT_THAT(status.message, AllOf(HasSubstr("2.28.9"), HasSubstr("rank 1 has 2.21.5")));
}

TEST(NcclRendezvous, FollowsOnlyInvitationsOfItsIncarnation) {
  EXPECT_TRUE(judge(Invitation{.incarnation = 3, .generation = 1}, 3).ok());
  EXPECT_EQ(judge(Invitation{.incarnation = 2, .generation = 1}, 3).code,
            ErrorCode::invalid_argument);
  EXPECT_EQ(judge(Invitation{.incarnation = 3, .generation = 0}, 3).code,
            ErrorCode::invalid_argument);
  EXPECT_EQ(judge(Invitation{.incarnation = 3, .generation = 1, .failed = 5}, 3).code,
            ErrorCode::unavailable);
}

TEST(NcclStep, IsJudgedByWhatIsSeen) {
  using enum NcclVerdict;
  using nccl::Code;
  struct Case {
    NcclSight sight;
    NcclVerdict verdict;
  };
  const Case cases[] = {
      {{}, wait},
      {{.finished = true}, done},
      {{.state = Code::in_progress}, wait},
      {{.late = true}, late},
      {{.state = Code::in_progress, .late = true}, late},
      {{.peers_ok = false}, lost},
      {{.late = true, .peers_ok = false}, lost},
      // What has finished counts.
      {{.finished = true, .late = true, .peers_ok = false}, done},
      // NCCL has not.
      {{.state = Code::in_progress, .finished = true, .late = true}, late},
      // Its own errors come before all else.
      {{.state = Code::remote_error, .finished = true}, broken},
      {{.state = Code::system_error, .late = true, .peers_ok = false}, broken},
      {{.state = static_cast<Code>(99)}, broken},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(judge(one.sight), one.verdict)
        << static_cast<int>(one.sight.state) << one.sight.finished << one.sight.late
        << one.sight.peers_ok;
  }
}

TEST(NcclTypes, AreThoseOfTheElements) {
  EXPECT_EQ(nccl_type(DType::f16), nccl::Type::f16);
  EXPECT_EQ(nccl_type(DType::bf16), nccl::Type::bf16);
  EXPECT_EQ(nccl_type(DType::f32), nccl::Type::f32);
  EXPECT_EQ(nccl_type(DType::f64), nccl::Type::f64);
  EXPECT_EQ(nccl_type(DType::i8), nccl::Type::i8);
  EXPECT_EQ(nccl_type(DType::u8), nccl::Type::u8);
  EXPECT_EQ(nccl_type(DType::i32), nccl::Type::i32);
  EXPECT_EQ(nccl_type(DType::u32), nccl::Type::u32);
  EXPECT_EQ(nccl_type(DType::i64), nccl::Type::i64);
  EXPECT_EQ(nccl_type(DType::u64), nccl::Type::u64);
  for (const DType none : {DType::boolean, DType::i16, DType::u16}) {
    EXPECT_EQ(nccl_type(none), std::nullopt) << to_string(none);
  }
}

TEST(NcclOps, AreTheReductions) {
  EXPECT_EQ(nccl_op(Reduction::sum), nccl::Op::sum);
  EXPECT_EQ(nccl_op(Reduction::product), nccl::Op::product);
  EXPECT_EQ(nccl_op(Reduction::min), nccl::Op::min);
  EXPECT_EQ(nccl_op(Reduction::max), nccl::Op::max);
  EXPECT_EQ(nccl_op(static_cast<Reduction>(0)), std::nullopt);
}

}  // namespace
}  // namespace forge::gpu
