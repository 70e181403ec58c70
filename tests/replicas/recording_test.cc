#include "replicas/recording.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace forge::replicas {
namespace {

class Recordings : public ::testing::Test {
 protected:
  Recordings() {
    std::string pattern = std::filesystem::temp_directory_path() / "forge-recording-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    folder_ = pattern;
    recording_.request = "service.endpoint";
    recording_.reason = "did it";
    recording_.arena_bytes = shm::kArenaBlocksOffset + 8192;
    recording_.setup.block = shm::kArenaBlocksOffset;
    recording_.call.block = shm::kArenaBlocksOffset + 4096;
    recording_.call.endpoint = 3;
    recording_.pieces = {{recording_.setup.block, std::vector<std::byte>(8, std::byte{1})},
                         {recording_.call.block, std::vector<std::byte>(3000, std::byte{2})}};
  }
  ~Recordings() override { std::filesystem::remove_all(folder_); }

  std::string read(const std::string& path) const {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  Result<Recording> load(const std::string& bytes) const {
    std::ofstream(folder_ / "other", std::ios::binary | std::ios::trunc) << bytes;
    return load_recording(folder_ / "other");
  }

  std::filesystem::path folder_;
  Recording recording_;
};

TEST_F(Recordings, ComeBackAsTheyWere) {
  ASSERT_TRUE(save(recording_, folder_ / "one").ok());
  const auto loaded = load_recording(folder_ / "one");
  ASSERT_TRUE(loaded) << loaded.error().what();
  EXPECT_EQ(loaded->request, recording_.request);
  EXPECT_EQ(loaded->reason, recording_.reason);
  EXPECT_EQ(loaded->arena_bytes, recording_.arena_bytes);
  EXPECT_EQ(loaded->call.endpoint, 3);
  ASSERT_EQ(loaded->pieces.size(), 2U);
  EXPECT_EQ(loaded->pieces[1].offset, recording_.call.block);
  EXPECT_EQ(loaded->pieces[1].bytes, recording_.pieces[1].bytes);
}

TEST_F(Recordings, NeverReplaceAFile) {
  ASSERT_TRUE(save(recording_, folder_ / "one").ok());
  EXPECT_FALSE(save(recording_, folder_ / "one").ok());
  std::filesystem::create_symlink(folder_ / "one", folder_ / "link");
  EXPECT_FALSE(save(recording_, folder_ / "link").ok());
}

TEST_F(Recordings, ThatAreCutShortAreRefused) {
  ASSERT_TRUE(save(recording_, folder_ / "one").ok());
  const std::string whole = read(folder_ / "one");
  for (std::size_t size = 0; size < whole.size(); size += size < 400 ? 1 : 97)
    EXPECT_FALSE(load(whole.substr(0, size))) << size;
}

TEST_F(Recordings, ThatAreDamagedNameNothingOutsideOfThem) {
  ASSERT_TRUE(save(recording_, folder_ / "one").ok());
  const std::string whole = read(folder_ / "one");
  for (std::size_t at = 0; at < 400; ++at) {
    for (const int change : {1, 0x80, 0xff}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ change);
      const auto loaded = load(damaged);
      if (!loaded) continue;
      for (const Recording::Piece& piece : loaded->pieces)
        ASSERT_LE(piece.offset + piece.bytes.size(), loaded->arena_bytes) << at;
    }
  }
}

}  // namespace
}  // namespace forge::replicas
