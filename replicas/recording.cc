#include "replicas/recording.h"

#include <fcntl.h>
#include <forge/payload.h>
#include <forge/wire.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>
#include <system_error>

#include "replicas/build.h"
#include "replicas/channel.h"
#include "replicas/worker.h"

namespace forge::replicas {
namespace {

/// Begins the file; the number changes with kLayoutVersion and with what follows.
struct Prefix {
  char magic[8] = {'f', 'o', 'r', 'g', 'e', 'r', 'e', 'c'};
  std::uint32_t version = shm::kLayoutVersion << 8 | 1;
  std::uint32_t head_size = 0;
};

std::span<const std::byte> bytes_of(const shm::RequestSlot& slot) {
  return std::as_bytes(std::span(&slot, 1));
}

shm::RequestSlot read_slot(detail::Reader& reader) {
  const auto bytes = reader.bytes();
  shm::RequestSlot slot;
  if (bytes.size() != sizeof(slot)) throw InvalidArgument("a request of the wrong size");
  std::memcpy(&slot, bytes.data(), sizeof(slot));
  return slot;
}

std::shared_ptr<const Error> refusal(const std::string& path, const std::string& why) {
  return make_error({ErrorCode::invalid_argument, "'" + path + "' " + why});
}

Status system_failure(const std::string& path) {
  return {ErrorCode::unavailable,
          "cannot write '" + path + "': " + std::generic_category().message(errno)};
}

/// The outcome of one request, for people; nothing has been checked but that it is there.
std::string describe(const shm::ResponseSlot& slot, const Channel& channel) {
  if (slot.kind == shm::ResponseKind::value)
    return "answered with a value of " +
           std::to_string(slot.block == 0 ? slot.head_size : slot.block_size) + " encoded bytes";
  if (slot.kind == shm::ResponseKind::expired) return "was not run: its deadline had passed";
  const std::byte* head = slot.block == 0 ? slot.answer : channel.answers()->data() + slot.block;
  detail::Reader reader({head, slot.head_size}, {}, nullptr);
  return "failed: " + std::string(detail::read_error(reader, 0)->what());
}

}  // namespace

Status save(const Recording& recording, const std::string& path) {
  detail::Writer writer;
  writer.reset();
  writer.array(7);
  writer.string(recording.request);
  writer.string(recording.reason);
  writer.string(recording.program);
  writer.unsigned_integer(recording.arena_bytes);
  writer.bytes(bytes_of(recording.setup));
  writer.bytes(bytes_of(recording.call));
  writer.array(2 * recording.pieces.size());
  for (const Recording::Piece& piece : recording.pieces) {
    writer.unsigned_integer(piece.offset);
    writer.bytes(piece.bytes);
  }
  Prefix prefix;
  prefix.head_size = static_cast<std::uint32_t>(writer.head().size());
  std::vector<std::byte> file(sizeof(prefix) + writer.block_size());
  std::memcpy(file.data(), &prefix, sizeof(prefix));
  writer.write_to(file.data() + sizeof(prefix));

  // New, and no link to somebody else's.
  const shm::FileDescriptor fd(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) return system_failure(path);
  for (std::span<const std::byte> rest(file); !rest.empty();) {
    const ssize_t written = ::write(fd.get(), rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      Status failed = system_failure(path);
      ::unlink(path.c_str());
      return failed;
    }
    rest = rest.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

Result<Recording> load_recording(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return refusal(path, "cannot be read; name a file that an error message named");
  const std::vector<char> raw{std::istreambuf_iterator<char>(file), {}};
  const Prefix wanted;
  Prefix prefix;
  if (raw.size() < sizeof(prefix)) return refusal(path, "is no recording of a request");
  std::memcpy(&prefix, raw.data(), sizeof(prefix));
  if (std::memcmp(prefix.magic, wanted.magic, sizeof(prefix.magic)) != 0)
    return refusal(path, "is no recording of a request");
  if (prefix.version != wanted.version)
    return refusal(path, "was recorded by another version of forge; replay it with that one");
  const auto block = std::as_bytes(std::span(raw)).subspan(sizeof(prefix));
  if (prefix.head_size > block.size()) return refusal(path, "is cut short");
  try {
    const auto blobs = detail::blobs_of(block, prefix.head_size);
    detail::Reader reader(block.first(prefix.head_size), blobs, nullptr);
    Recording recording;
    if (reader.array() != 7) return refusal(path, "is damaged");
    recording.request = reader.string();
    recording.reason = reader.string();
    recording.program = reader.string();
    recording.arena_bytes = reader.unsigned_integer();
    if (recording.arena_bytes < shm::kArenaBlocksOffset || recording.arena_bytes % shm::kPage != 0)
      return refusal(path, "is damaged: no arena is of that size");
    recording.setup = read_slot(reader);
    recording.call = read_slot(reader);
    const std::size_t pieces = reader.array() / 2;
    for (std::size_t i = 0; i < pieces; ++i) {
      Recording::Piece piece;
      piece.offset = reader.unsigned_integer();
      const auto bytes = reader.bytes();
      if (piece.offset > recording.arena_bytes ||
          bytes.size() > recording.arena_bytes - piece.offset)
        return refusal(path, "is damaged: it has bytes outside of its arena");
      piece.bytes.assign(bytes.begin(), bytes.end());
      recording.pieces.push_back(std::move(piece));
    }
    reader.finish();
    return recording;
  } catch (const Error& error) {
    return refusal(path, std::string("is damaged: ") + error.what());
  }
}

int replay(const Recording& recording) {
  const auto fail = [](const std::string& what) {
    std::fprintf(stderr, "forge replay: %s\n", what.c_str());
    return 2;
  };
  std::uint64_t used = sizeof(shm::ArenaHeader);
  for (const Recording::Piece& piece : recording.pieces)
    used = std::max<std::uint64_t>(used, piece.offset + piece.bytes.size());
  auto arena = shm::Segment::create({.name = "forge:replay:arena",
                                     .size = recording.arena_bytes,
                                     .reserved = shm::page_up(used),
                                     .writer = shm::Writer::creator});
  if (!arena) return fail(arena.error().what());
  reinterpret_cast<shm::ArenaHeader*>(arena->data())->header =
      shm::make_header(recording.arena_bytes, 0);
  for (const Recording::Piece& piece : recording.pieces)
    std::memcpy(arena->data() + piece.offset, piece.bytes.data(), piece.bytes.size());
  auto channel = Channel::create(
      {.name = "replay", .wait = Wait::block, .answer_bytes = std::size_t{64} << 20});
  if (!channel) return fail(channel.error().what());
  (*channel)->leave_answers_alone();
  ::setenv(kAnyBuild, "1", 1);  // NOLINT(concurrency-mt-unsafe): no thread yet

  // One process is all ranks: nothing has to be in step, and nothing has a deadline any more.
  shm::RequestSlot setup = recording.setup;
  shm::RequestSlot call = recording.call;
  shm::RequestSlot stop{};
  stop.kind = shm::RequestKind::stop;
  call.batch = 1;
  setup.lockstep = call.lockstep = 0;
  setup.deadline_ns = call.deadline_ns = 0;
  for (const shm::RequestSlot& slot : {setup, call, stop}) (*channel)->push(slot);

  std::printf("replays %s in process %d\n  recorded because it %s\n", recording.request.c_str(),
              static_cast<int>(::getpid()), recording.reason.c_str());
  std::fflush(stdout);
  const auto attach = [](int fd, shm::Access access) {
    return shm::Segment::attach(shm::FileDescriptor(::dup(fd)), access);
  };
  auto requests = attach((*channel)->request_fd(), shm::Access::read_only);
  auto responses = attach((*channel)->response_fd(), shm::Access::read_write);
  auto view = attach(arena->fd(), shm::Access::read_only);
  if (!requests || !responses || !view) return fail("cannot map its own memory");
  serve(std::move(*requests), std::move(*responses), std::move(*view));

  shm::ResponseSlot slot;
  bool answered = false;
  for (const char* what : {"setup", "the request"}) {
    if (!(*channel)->pop(slot)) break;
    answered = slot.kind == shm::ResponseKind::value;
    std::printf("%s %s\n", what, describe(slot, **channel).c_str());
    if (!answered) break;
  }
  return answered ? 0 : 1;
}

bool wants_replay(int argc, char** argv) {
  return argc == 3 && std::string_view(argv[1]) == kReplayFlag;
}

int run_replay(const std::string& path) {
  const auto recording = load_recording(path);
  if (!recording) {
    std::fprintf(stderr, "forge replay: %s\n", recording.error().what());
    return 2;
  }
  return replay(*recording);
}

}  // namespace forge::replicas
