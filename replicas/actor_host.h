// ActorHost: the one actor of a worker, and the border where its exceptions end.
//
// Roles: the worker's loop owns a host and feeds it requests; the host knows nothing of rings or
// processes. Not thread-safe: everything happens on the worker's thread, where the worker has set
// forge::context() before.
//
// Invariants
//   H1  No exception of plugin code leaves a verb: it becomes a Status or an encoded error.
//   H2  After outcome() the Writer holds either what the sink was given, or one encoded error.
//   H3  The sink sees results of elements in order, each at most once, after the method has ended.
#pragma once

#include <forge/error.h>
#include <forge/module.h>
#include <forge/wire.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace forge::replicas {

class ActorHost {
 public:
  explicit ActorHost(std::unique_ptr<Module> module);

  /// Constructs the actor from an array of arguments; integers convert where the value fits.
  /// UnknownActor, SignatureMismatch (how many), InvalidArgument (which one), or what it threw.
  Status create(std::string_view actor, detail::Reader& args) noexcept;
  /// Runs the actor's setup(). Precondition: create() was ok.
  Status setup() noexcept;

  /// From now on endpoints go by their index in `names`; none: by that in the manifest. A name that
  /// the actor does not have is an UnknownEndpoint when it is called. Precondition: create() was ok.
  void number(const std::vector<std::string>& names);

  /// Runs an endpoint, by its index; `call.args` holds one reader per element,
  /// several for batched endpoints. `call.sink` hears ended() when it is over, which for a coroutine
  /// may be after this has returned. Precondition: create() was ok.
  void invoke(std::size_t endpoint, detail::Invocation& call) noexcept;

  /// After ended(): ok if `sink` was given the outcome of each element. Otherwise `out` now holds an
  /// error for those that it was not given, as write_error encodes it, which refers to nothing.
  ErrorCode outcome(std::size_t endpoint, detail::Invocation& call) noexcept;

  const Module& module() const { return *module_; }
  /// Null before create().
  const detail::ActorInfo* info() const { return info_; }

 private:
  /// In the manifest; beyond its end: there is none.
  std::size_t resolve(std::size_t endpoint) const {
    return endpoint < numbers_.size() ? numbers_[endpoint] : info_->endpoints.size();
  }

  std::unique_ptr<Module> module_;
  const detail::ActorInfo* info_ = nullptr;  // in *module_
  std::unique_ptr<ForgeActor> actor_;        // dies before the module
  std::vector<std::size_t> numbers_;         // of endpoints, in the manifest
};

/// The exception that is being handled, as an ActorError's status: "<where>: <type>: <text>".
/// Call it inside a catch block only.
Status current_exception_status(std::string_view where);

}  // namespace forge::replicas
