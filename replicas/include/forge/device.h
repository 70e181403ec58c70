// What actors on a GPU use beside context(): waiting for the stream without holding up others, and
// graphs of work that is the same for every batch of one size. Where there is no device, waiting is
// over at once and graphs are plain calls, so that the same actor runs on any machine.
#pragma once

#include <forge/error.h>
#include <forge/result.h>
#include <forge/tensor.h>

#include <coroutine>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace forge {
namespace detail {

/// The stream of the current call, as the worker sees it.
class DeviceWork {
 public:
  /// Work that was captured.
  struct Graph {
    Graph() = default;
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    virtual ~Graph();
  };

  /// Has all that was put in been done? Throws what has gone wrong there.
  virtual bool idle() = 0;
  /// Resumes the coroutine on the worker's thread when what has been put in so far has been done.
  /// `failure` must live until then, and is set before if something has gone wrong.
  virtual void when_idle(std::coroutine_handle<> coroutine, ErrorPtr& failure) = 0;
  virtual std::unique_ptr<Graph> capture(const std::function<void()>& body) = 0;
  virtual void launch(Graph& graph) = 0;

 protected:
  ~DeviceWork() = default;
};

/// Of the current call; null where there is no device. Throws InvalidArgument outside of an actor.
DeviceWork* device_work();

/// What synchronize() gives.
class [[nodiscard]] Synchronize {
 public:
  bool await_ready();
  void await_suspend(std::coroutine_handle<> task) { work_->when_idle(task, failure_); }
  void await_resume() const {
    if (failure_) failure_->raise();
  }

 private:
  DeviceWork* work_ = nullptr;
  ErrorPtr failure_;
};

}  // namespace detail

/// `co_await forge::synchronize()` in an endpoint that is a forge::Task: goes on when all work that
/// was put into the call's stream so far has been done; other calls run meanwhile. Throws
/// Unavailable if that work has failed.
inline detail::Synchronize synchronize() { return {}; }

/// Work that an actor puts into its stream in the same way for every batch, captured once for each
/// of some sizes and then put in again as one piece, which costs the CPU a fraction.
///
///   graphs_.run(images.shape()[0], [&](std::size_t rows) { forward(rows); });
///
/// A graph keeps the addresses it was captured with: `body` must use buffers that stay where they
/// are (allocated in setup()), not the arguments of the call; copy those in before run() and the
/// result out behind it. For use in endpoints of one actor.
class GraphCache {
 public:
  /// Throws InvalidArgument if there is no bucket, or one of 0.
  explicit GraphCache(std::vector<std::size_t> buckets = {1, 2, 4, 8, 16, 32, 64});

  /// The smallest bucket that is not below n; n itself if all are.
  std::size_t bucket(std::size_t n) const;

  /// The first time for a bucket: runs body(bucket), then captures it. From the second time on the
  /// capture is put into the stream and `body` is not called. Without a device, and where n is above
  /// all buckets, `body` is called each time. Throws InvalidArgument if `body` does what cannot be
  /// captured: allocate, wait for the device, or copy memory that is not pinned.
  void run(std::size_t n, const std::function<void(std::size_t bucket)>& body);

  /// Buckets that have been captured.
  std::size_t captured() const { return graphs_.size(); }

 private:
  std::vector<std::size_t> buckets_;  // in order
  std::map<std::size_t, std::unique_ptr<detail::DeviceWork::Graph>> graphs_;
};

}  // namespace forge
