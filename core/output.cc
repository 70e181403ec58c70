#include "core/output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <forge/error.h>
#include <algorithm>
#include <cerrno>
#include <system_error>

#include "core/fork.h"
#include "shm/threads.h"

namespace forge::core {
namespace {

using shm::FileDescriptor;

std::string prefix_of(const std::string& name) { return "[" + name + "] "; }

/// Only our end does not block: workers expect that theirs does.
bool make_pipe(FileDescriptor& read_end, FileDescriptor& write_end) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return false;
  read_end = FileDescriptor(ends[0]);
  write_end = FileDescriptor(ends[1]);
  return ::fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0;
}

std::size_t bytes_in(const FileDescriptor& pipe) {
  int count = 0;
  return ::ioctl(pipe.get(), FIONREAD, &count) == 0 ? static_cast<std::size_t>(count) : 0;
}

}  // namespace

Output::Output()
    : wakeup_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      out_(Outlet::standard(STDOUT_FILENO)),
      err_(Outlet::standard(STDERR_FILENO)),
      buffer_(kLongestLine) {
  if (!wakeup_)
    throw Unavailable("eventfd: the process has no descriptor left; raise its limit (ulimit -n)");
  thread_ = shm::start_thread("forge-output", {}, [this] { run(); });
}

void Output::stop() {
  if (!thread_.joinable()) return;
  if (in_forked_child()) {  // the thread was not copied
    thread_.detach();
    return;
  }
  {
    std::unique_lock lock(mutex_);
    stop_ = true;
    wake();
    if (!changed_.wait_for(lock, Outlet::kLongestDrain, [&] { return ended_; })) hurry_ = true;
  }
  thread_.join();
  std::unique_lock lock(mutex_);
  const auto outlets = {std::exchange(out_, nullptr), std::exchange(err_, nullptr)};
  lock.unlock();
  for (const auto& outlet : outlets) outlet->drain();  // others may hold them, too
}

Result<Output::Ends> Output::open(const std::string& name) {
  Ends ends;
  FileDescriptor out;
  FileDescriptor err;
  if (!make_pipe(out, ends.out) || !make_pipe(err, ends.err)) {
    const int error_number = errno;
    return make_error(
        {ErrorCode::unavailable, "cannot make a pipe for the output of '" + name +
                                     "': " + std::generic_category().message(error_number) +
                                     "; raise the limit (ulimit -n) or start less"});
  }
  const std::string prefix = prefix_of(name);
  const std::lock_guard lock(mutex_);
  ends.id = ++last_id_;
  opened_.push_back({ends.id, STDOUT_FILENO, std::move(out), prefix, {}});
  opened_.push_back({ends.id, STDERR_FILENO, std::move(err), prefix, {}});
  wake();
  return ends;
}

void Output::rename(std::uint64_t id, const std::string& name) {
  const std::lock_guard lock(mutex_);
  for (auto* pipes : {&opened_, &pipes_}) {
    for (Pipe& pipe : *pipes) {
      if (pipe.worker != id) continue;
      pipe.next_prefix = prefix_of(name);
      pipe.renamed_from = pipe.taken + bytes_in(pipe.fd);
    }
  }
}

void Output::close(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  closed_.push_back(id);
  wake();
}

void Output::flush() {
  std::unique_lock lock(mutex_);
  const std::uint64_t mine = ++asked_;
  wake();
  changed_.wait_for(lock, Outlet::kLongestDrain, [&] { return flushed_ >= mine || stop_; });
  const auto outlets = {out_, err_};  // stop() gives them up
  lock.unlock();
  for (const auto& outlet : outlets) {
    if (outlet) outlet->drain();
  }
}

void Output::wake() { (void)!::eventfd_write(wakeup_.get(), 1); }

void Output::run() {
  std::vector<pollfd> events;
  std::vector<std::uint64_t> closed;
  std::uint64_t flushed = 0;
  bool stop = false;
  for (;;) {
    events.assign(1, {wakeup_.get(), POLLIN, 0});
    for (const Pipe& pipe : pipes_) events.push_back({pipe.fd.get(), POLLIN, 0});
    if (::poll(events.data(), events.size(), -1) < 0) continue;
    eventfd_t count = 0;
    if (events[0].revents != 0) (void)!::eventfd_read(wakeup_.get(), &count);
    {
      const std::lock_guard lock(mutex_);
      std::move(opened_.begin(), opened_.end(), std::back_inserter(pipes_));
      opened_.clear();
      closed.swap(closed_);
      flushed = asked_;
      stop = stop_;
    }
    // One read for each, so that none waits for a worker that never stops talking.
    for (std::size_t i = 0; i + 1 < events.size(); ++i) {
      if (events[i + 1].revents != 0) read_some(pipes_[i], buffer_.size());
    }
    for (Pipe& pipe : pipes_) {
      if (stop || std::find(closed.begin(), closed.end(), pipe.worker) != closed.end())
        read_rest(pipe);
    }
    closed.clear();
    {
      const std::lock_guard lock(mutex_);
      std::erase_if(pipes_, [](const Pipe& pipe) { return pipe.ended; });
      flushed_ = flushed;
      ended_ = stop;
    }
    changed_.notify_all();
    if (stop) return;
  }
}

void Output::read_some(Pipe& pipe, std::size_t limit) {
  ssize_t count = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!pipe.next_prefix.empty()) {
      if (pipe.taken == pipe.renamed_from)
        pipe.prefix = std::exchange(pipe.next_prefix, {});
      else
        limit = std::min<std::size_t>(limit, pipe.renamed_from - pipe.taken);
    }
    count = ::read(pipe.fd.get(), buffer_.data(), std::min(limit, buffer_.size()));
    if (count > 0) pipe.taken += static_cast<std::size_t>(count);
  }
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count > 0) {
    take(pipe, {buffer_.data(), static_cast<std::size_t>(count)});
  } else {
    end(pipe);
  }
  write_lines(pipe.target);
}

/// What is there now, and no more: somebody may go on writing.
void Output::read_rest(Pipe& pipe) {
  const std::uint64_t rest = bytes_in(pipe.fd);
  for (const std::uint64_t until = pipe.taken + rest; pipe.taken < until && !pipe.ended;)
    read_some(pipe, until - pipe.taken);
  end(pipe);
  write_lines(pipe.target);
}

/// Nobody will ever write to it again.
void Output::end(Pipe& pipe) {
  if (!pipe.line.empty()) end_line(pipe);
  pipe.ended = true;
}

void Output::take(Pipe& pipe, std::string_view bytes) {
  while (!bytes.empty()) {
    if (bytes.front() == '\n') {
      end_line(pipe);
      bytes.remove_prefix(1);
      continue;
    }
    if (pipe.line.size() == kLongestLine) end_line(pipe);
    const std::size_t size =
        std::min({bytes.find('\n'), bytes.size(), kLongestLine - pipe.line.size()});
    pipe.line.append(bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
}

void Output::end_line(Pipe& pipe) {
  lines_.append(pipe.prefix).append(pipe.line).append("\n");
  pipe.line.clear();
}

void Output::write_lines(int target) {
  if (lines_.empty()) return;
  (void)(target == STDOUT_FILENO ? out_ : err_)->put(std::exchange(lines_, {}), hurry_);
}

}  // namespace forge::core
