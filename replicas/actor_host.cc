#include "replicas/actor_host.h"

#include <forge/payload.h>

#include <algorithm>
#include <exception>
#include <numeric>
#include <string>
#include <utility>

#include "replicas/thrown.h"

namespace forge::replicas {

namespace {

using detail::Invocation;

/// An exception may say anything; answers must stay small enough for every worker's memory.
constexpr std::size_t kMaxText = 64 * 1024;

std::string shortened(std::string text) {
  if (text.size() <= kMaxText) return text;
  return text.substr(0, kMaxText) + "... (" + std::to_string(text.size()) + " bytes)";
}

/// Complaints about arguments and answers keep their class; the rest is the actor's error.
Status status_of_exception(const std::string& where, bool running) {
  if (!running) {
    try {
      throw;
    } catch (const Error& error) {
      return to_status(error);
    } catch (...) {
    }
  }
  return current_exception_status(where);
}

std::string names_of(const Module& module) {
  std::string names;
  for (const detail::ActorInfo& actor : module.actors()) {
    names += (names.empty() ? "\"" : ", \"") + actor.name + "\"";
  }
  return names.empty() ? "none" : names;
}

/// Runs `work` and gives its status; never throws, whatever happens.
template <class Work>
Status guarded(Work&& work) noexcept {
  try {
    return work();
  } catch (...) {
    return {ErrorCode::actor_error, {}, {}};  // no memory even for a message
  }
}

}  // namespace

Status current_exception_status(std::string_view where) {
  Thrown thrown = current_thrown();
  return to_status(ActorError(std::string(where), thrown.type, shortened(std::move(thrown.text))));
}

ActorHost::ActorHost(std::unique_ptr<Module> module) : module_(std::move(module)) {}

Status ActorHost::create(std::string_view actor, detail::Reader& args) noexcept {
  return guarded([&]() -> Status {
    const detail::ActorInfo* const info = module_->find(actor);
    if (info == nullptr) {
      return {
          ErrorCode::unknown_actor,
          "the plugin has no actor \"" + std::string(actor) + "\"; it has " + names_of(*module_),
          {}};
    }
    bool running = false;
    try {
      actor_ = info->construct(*info, args, running);
      info_ = info;
      numbers_.resize(info->endpoints.size());
      std::iota(numbers_.begin(), numbers_.end(), std::size_t{0});
      return {};
    } catch (...) {
      return status_of_exception("the constructor of " + info->name, running);
    }
  });
}

Status ActorHost::setup() noexcept {
  return guarded([&]() -> Status {
    try {
      actor_->setup();
      return {};
    } catch (...) {
      return current_exception_status("setup() of " + info_->name);
    }
  });
}

void ActorHost::number(const std::vector<std::string>& names) {
  if (names.empty()) return;
  const auto& endpoints = info_->endpoints;
  numbers_.clear();
  for (const std::string& name : names) {
    const auto found = std::find_if(endpoints.begin(), endpoints.end(),
                                    [&](const auto& endpoint) { return endpoint.name == name; });
    numbers_.push_back(static_cast<std::size_t>(found - endpoints.begin()));
  }
}

void ActorHost::invoke(std::size_t number, detail::Invocation& call) noexcept {
  const auto& endpoints = info_->endpoints;
  const std::size_t endpoint = resolve(number);
  bool coroutine = false;
  try {
    if (endpoint >= endpoints.size()) {
      throw UnknownEndpoint(info_->name + " has " + std::to_string(endpoints.size()) +
                            " endpoints, no number " + std::to_string(number) +
                            "; use controller, worker and plugin of one build");
    }
    const detail::EndpointInfo& info = endpoints[endpoint];
    if (call.args.size() != 1 && (info.kind != EndpointKind::batched || call.args.empty())) {
      throw InvalidArgument(info_->name + "." + info.name + " was called with " +
                            std::to_string(call.args.size()) +
                            " elements; only batched endpoints take several");
    }
    info.invoke(info, *actor_, call);
    coroutine = info.coroutine;
  } catch (...) {
    call.failure = std::current_exception();
  }
  if (!coroutine) call.sink.ended();
}

ErrorCode ActorHost::outcome(std::size_t number, detail::Invocation& call) noexcept {
  const std::size_t endpoint = resolve(number);
  if (!call.failure) return ErrorCode::ok;
  const Status status = guarded([&]() -> Status {
    const bool known = endpoint < info_->endpoints.size();
    try {
      std::rethrow_exception(std::exchange(call.failure, nullptr));
    } catch (...) {
      return status_of_exception(
          known ? info_->name + "." + info_->endpoints[endpoint].name : info_->name,
          call.phase == Invocation::Phase::running);
    }
  });
  call.out.restart();
  const Status written = guarded([&]() -> Status {
    detail::write_error(call.out, *make_error(status));
    return {};
  });
  if (!written.ok()) call.out.restart();
  return status.code;
}

}  // namespace forge::replicas
