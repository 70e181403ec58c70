// Frames of a control socket: streams are cut anywhere, and may be anything.
#include "core/frames.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>
#include <string>
#include <utility>

namespace forge::core {
namespace {

using shm::FileDescriptor;

std::string framed(const std::string& text, std::size_t claimed) {
  std::string bytes;
  for (std::size_t i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(claimed >> (8 * i)));
  return bytes + text;
}
std::string framed(const std::string& text) { return framed(text, text.size()); }

std::pair<FileDescriptor, FileDescriptor> sockets() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  return {FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

TEST(Frames, ArePutTogetherByteByByte) {
  FrameReader reader(100);
  const std::string bytes = framed(R"({"forge":1,"a":1})") + framed(R"({"forge":1,"a":2})");
  int found = 0;
  for (const char byte : bytes) {
    reader.append({&byte, 1});
    const auto frame = reader.next();
    ASSERT_TRUE(frame.has_value());
    if (*frame) {
      EXPECT_EQ((**frame)["a"], ++found);
    }
  }
  EXPECT_EQ(found, 2);
}

TEST(Frames, ThatAreNoneAreRefused) {
  const std::pair<std::string, std::string> cases[] = {
      {framed("", 101), "the most is 100"},
      {"GET / HTTP/1.1\r\n\r\n", "the most is 100"},
      {framed("not json"), "no JSON object"},
      {framed("[1]"), "no JSON object"},
      {framed(""), "no JSON object"},
      {framed(R"({"forge":1)"), "no JSON object"},
      {framed(std::string(90, '[')), "no JSON object"},
      {framed(R"({"a":1})"), "another protocol"},
      {framed(R"({"forge":2})"), "another protocol"},
      {framed(R"({"forge":"1"})"), "another protocol"},
  };
  for (const auto& [bytes, said] : cases) {
    FrameReader reader(100);
    reader.append(bytes);
    const auto frame = reader.next();
    ASSERT_FALSE(frame.has_value()) << bytes;
    EXPECT_NE(std::string(frame.error().what()).find(said), std::string::npos)
        << frame.error().what();
  }
}

TEST(Frames, ARandomStreamNeverGivesMoreThanItHas) {
  std::mt19937_64 random(7);
  for (int run = 0; run < 2000; ++run) {
    FrameReader reader(64);
    std::string bytes(random() % 80, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() % 8 == 0 ? random() : random() % 64);
    if (bytes.size() > 4 && random() % 2 == 0) bytes[1] = bytes[2] = bytes[3] = 0;
    reader.append(bytes);
    for (;;) {
      const auto frame = reader.next();
      if (!frame || !*frame) break;
    }
  }
}

TEST(Frames, BringADescriptorAlongOnce) {
  auto [here, there] = sockets();
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  FileDescriptor read_end(pipe[0]);
  FrameWriter out;
  {
    const FileDescriptor write_end(pipe[1]);
    out.push({{"a", 1}}, write_end.get());
    out.push({{"a", 2}});
  }
  EXPECT_EQ(out.flush(here.get()), FrameWriter::Sent::all);
  EXPECT_EQ(out.waiting(), 0U);
  std::string bytes;
  FileDescriptor received;
  ASSERT_GT(receive(there.get(), bytes, received, 0), 0);
  ASSERT_TRUE(received);
  ASSERT_EQ(::write(received.get(), "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(::read(read_end.get(), &byte, 1), 1);
  received = FileDescriptor();
  EXPECT_EQ(::read(read_end.get(), &byte, 1), 0) << "nobody holds another copy";
}

TEST(Frames, WaitForWhoDoesNotReadWithoutBlocking) {
  auto [here, there] = sockets();
  FrameWriter out;
  for (int i = 0; i < 100; ++i) out.push({{"text", std::string(50'000, 'x')}, {"i", i}});
  EXPECT_EQ(out.flush(here.get()), FrameWriter::Sent::some);
  EXPECT_GT(out.waiting(), 0U);
  FrameReader reader(kLongestAnswer);
  std::string bytes;
  FileDescriptor none;
  int seen = 0;
  while (seen < 100) {
    (void)out.flush(here.get());
    if (receive(there.get(), bytes, none, 0) > 0) reader.append(bytes);
    while (auto frame = std::move(reader.next()).value()) EXPECT_EQ((*frame)["i"], seen++);
  }
  there = FileDescriptor();
  out.push({});
  EXPECT_EQ(out.flush(here.get()), FrameWriter::Sent::failed);
}

TEST(Frames, HoldAnyBytesAsText) {
  auto [here, there] = sockets();
  FrameWriter out;
  out.push({{"text", "\xFF\x00\n"}});
  (void)out.flush(here.get());
  std::string bytes;
  FileDescriptor none;
  ASSERT_GT(receive(there.get(), bytes, none, 0), 0);
  FrameReader reader(kLongestAnswer);
  reader.append(bytes);
  EXPECT_TRUE(std::move(reader.next()).value().has_value());
}

}  // namespace
}  // namespace forge::core
