#include "core/outlet.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "core/fork.h"
#include "shm/threads.h"

namespace forge::core {
namespace {

/// A pipe takes so much in one piece.
constexpr std::size_t kPiece = 4096;
/// Stalls are counted in these: a program that is stopped for an hour has lost no more than one.
constexpr std::chrono::milliseconds kSlice{50};

/// Errors are ignored: a program that has closed its stdout does not want to see anything. SIGPIPE is
/// blocked like all signals.
void write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {  // the program has made it non-blocking
      pollfd room{fd, POLLOUT, 0};
      ::poll(&room, 1, -1);
    } else if (errno != EINTR) {
      return;
    }
  }
}

/// What a text takes of the room: an empty one is not for nothing.
std::size_t cost(const std::string& text) { return text.size() + 64; }

std::uint64_t lines_in(std::string_view text) {
  const auto ends = static_cast<std::uint64_t>(std::count(text.begin(), text.end(), '\n'));
  return std::max<std::uint64_t>(ends, 1);
}

}  // namespace

/// What outlet and thread share.
struct Outlet::Queue {
  Queue(Sink to, Note about, std::size_t most)
      : sink(std::move(to)), note(std::move(about)), piece(most) {}

  /// Until closed. On the thread.
  void serve();
  /// [lock]
  bool accept(Text text, std::size_t room);
  /// [lock] Waits for `done` as W3 says; false: in vain.
  template <class Done>
  bool await(std::unique_lock<std::mutex>& lock, std::chrono::milliseconds longest, Done done);
  /// The outlet of this queue is gone and its thread still hangs: may another one take it over?
  bool revive();

  const Sink sink;
  const Note note;
  const std::size_t piece;

  std::mutex mutex;               // guards all below; a leaf
  std::condition_variable more;   // for the thread
  std::condition_variable moved;  // the sink has taken something
  std::deque<Text> texts;
  std::size_t bytes = 0;       // of them, and of the one that the sink has
  std::uint64_t dropped = 0;   // lines, not told yet
  std::uint64_t accepted = 0;  // texts
  std::uint64_t taken = 0;     // of them
  std::uint64_t moves = 0;     // pieces that the sink has taken
  bool stalled = false;        // somebody has waited for kStall in vain
  bool closing = false;        // the thread ends when there is no text left
  bool ended = false;
  bool stream = false;  // standard output or error: nothing of the program's is called
  std::thread thread;
};

void Outlet::Queue::serve() {
  std::unique_lock lock(mutex);
  const auto hand_over = [&](const Text& text) {
    std::string_view rest = text.text;
    do {
      const std::string_view next = rest.substr(0, piece);
      rest.remove_prefix(next.size());
      lock.unlock();
      sink(text.level, next);
      lock.lock();
      ++moves;
      stalled = false;
      moved.notify_all();
    } while (!rest.empty());
  };
  for (;;) {
    more.wait(lock, [&] { return !texts.empty() || dropped != 0 || closing; });
    if (texts.empty() && dropped == 0) break;
    if (texts.empty()) {
      hand_over(note(std::exchange(dropped, 0)));
      continue;
    }
    const Text text = std::move(texts.front());
    texts.pop_front();
    hand_over(text);
    bytes -= cost(text.text);
    ++taken;
    moved.notify_all();
  }
  ended = true;
  moved.notify_all();
}

bool Outlet::Queue::accept(Text text, std::size_t room) {
  if (bytes != 0 && bytes + cost(text.text) > room) return false;
  if (dropped != 0) {  // here they are missing
    texts.push_back(note(std::exchange(dropped, 0)));
    bytes += cost(texts.back().text);
    ++accepted;
  }
  bytes += cost(text.text);
  texts.push_back(std::move(text));
  ++accepted;
  more.notify_one();
  return true;
}

template <class Done>
bool Outlet::Queue::await(std::unique_lock<std::mutex>& lock, std::chrono::milliseconds longest,
                          Done done) {
  std::chrono::milliseconds idle{0};
  for (std::chrono::milliseconds waited{0}; !done(); waited += kSlice) {
    if (stalled || waited >= longest) return false;
    const std::uint64_t before = moves;
    const auto slice_end = std::chrono::steady_clock::now() + kSlice;
    moved.wait_until(lock, slice_end, done);
    idle = moves != before ? std::chrono::milliseconds(0) : idle + kSlice;
    stalled = idle >= kStall;
  }
  return true;
}

bool Outlet::Queue::revive() {
  const std::lock_guard lock(mutex);
  if (ended) return false;
  closing = false;
  return true;
}

Outlet::Outlet(std::shared_ptr<Queue> queue) : queue_(std::move(queue)) {}

Outlet::Outlet(const char* thread, Sink sink, Note note, std::size_t piece)
    : queue_(std::make_shared<Queue>(std::move(sink), std::move(note), piece)) {
  // The thread shares nothing but the queue.
  queue_->thread = shm::start_thread(thread, {}, [queue = queue_] { queue->serve(); });
}

Outlet::~Outlet() {
  if (leaked_in_fork(queue_)) return;  // the thread does not exist here
  std::unique_lock lock(queue_->mutex);
  queue_->closing = true;
  queue_->more.notify_one();
  std::thread thread = std::move(queue_->thread);
  const bool own = thread.get_id() == std::this_thread::get_id();
  if (!own && queue_->await(lock, kLongestDrain, [&] { return queue_->ended; })) {
    lock.unlock();
    if (thread.joinable()) thread.join();
    return;
  }
  // W4: what is still there finds nobody, but for the count of it in a stream of the program's.
  for (const Text& text : queue_->texts) {
    queue_->dropped += lines_in(text.text);
    queue_->bytes -= cost(text.text);
    ++queue_->taken;
  }
  queue_->texts.clear();
  if (!queue_->stream) queue_->dropped = 0;
  lock.unlock();
  if (thread.joinable()) thread.detach();
}

std::shared_ptr<Outlet> Outlet::standard(int fd) {
  struct Stream {
    std::weak_ptr<Outlet> outlet;
    std::weak_ptr<Queue> queue;  // longer there than the outlet, if its thread hangs
  };
  static std::mutex mutex;
  static Stream streams[STDERR_FILENO + 1];
  const std::lock_guard lock(mutex);
  Stream& stream = streams[fd];
  if (auto outlet = stream.outlet.lock()) return outlet;
  std::shared_ptr<Outlet> outlet;
  if (auto queue = stream.queue.lock(); queue && queue->revive()) {
    outlet = std::shared_ptr<Outlet>(new Outlet(std::move(queue)));
  } else {
    const auto note = [](std::uint64_t lines) {
      return Text{LogLevel::warning, "forge [warning] " + std::to_string(lines) +
                                         " lines were dropped here: what reads this had stopped\n"};
    };
    outlet = std::make_shared<Outlet>(
        fd == STDOUT_FILENO ? "forge-stdout" : "forge-stderr",
        [fd](LogLevel, std::string_view bytes) { write_all(fd, bytes); }, note, kPiece);
  }
  const std::lock_guard queue_lock(outlet->queue_->mutex);
  outlet->queue_->stream = true;
  stream = {outlet, outlet->queue_};
  return outlet;
}

bool Outlet::offer(LogLevel level, std::string text) {
  if (in_forked_child()) return false;
  const std::lock_guard lock(queue_->mutex);
  const std::uint64_t lines = lines_in(text);
  if (queue_->accept({level, std::move(text)}, kRoom)) return true;
  queue_->dropped += lines;
  return false;
}

bool Outlet::put(std::string text, const std::atomic<bool>& hurry) {
  if (in_forked_child()) return false;
  std::unique_lock lock(queue_->mutex);
  const auto fits = [&] {
    return queue_->bytes == 0 || queue_->bytes + cost(text) <= kRoom / 2 || hurry.load();
  };
  (void)queue_->await(lock, std::chrono::hours(24), fits);
  const std::uint64_t lines = lines_in(text);
  if (queue_->accept({LogLevel::info, std::move(text)}, kRoom / 2)) return true;
  queue_->dropped += lines;
  return false;
}

void Outlet::drain() {
  if (in_forked_child()) return;
  std::unique_lock lock(queue_->mutex);
  if (queue_->thread.get_id() == std::this_thread::get_id()) return;
  const std::uint64_t mine = queue_->accepted;
  (void)queue_->await(lock, kLongestDrain,
                      [&] { return queue_->taken >= mine && queue_->dropped == 0; });
}

}  // namespace forge::core
