#include <forge/service.h>

#include <exception>

#include "core/engine.h"
#include "core/fork.h"
#include "core/host.h"

namespace forge {
namespace detail {

Writer& arguments_writer(const EndpointRef& endpoint) {
  static thread_local Writer writer;
  writer.reset(endpoint.engine->home());
  return writer;
}

AnswerState* submit(const EndpointRef& endpoint, CallMode mode, Writer& arguments) {
  return endpoint.engine->submit(endpoint, mode, arguments);
}

OwnedCallOptions own(const CallOptions& options) {
  return {std::string(options.sess_id), options.timeout, std::string(options.key), options.cancel};
}

void throw_does_not_fit(const std::string& number, std::size_t bytes, bool integer) {
  throw InvalidArgument("argument " + number + " does not fit the endpoint's " +
                        (integer ? "integer" : "floating point number") + " of " +
                        std::to_string(bytes) + " bytes; pass a value that does");
}

EndpointRef bind(const std::shared_ptr<core::Engine>& engine, std::string_view name,
                 const std::string& signature, bool wants_mesh) {
  if (!engine) throw Stopped("this handle has been moved from; use the one it was moved to");
  return engine->bind(name, signature, wants_mesh);
}

namespace {

/// At once while an exception unwinds: the program wants to end.
void close(const std::shared_ptr<core::Engine>& engine, bool at_once) {
  if (!engine || core::leaked_in_fork(engine)) return;
  engine->shutdown(at_once ? std::chrono::nanoseconds::zero() : engine->grace());
}

core::Engine& require(const std::shared_ptr<core::Engine>& engine) {
  if (!engine) throw Stopped("this handle has been moved from; use the one it was moved to");
  return *engine;
}

}  // namespace
}  // namespace detail

Service::Service(std::shared_ptr<core::Engine> engine) : engine_(std::move(engine)) {}
Service::Service(Service&&) noexcept = default;
Service& Service::operator=(Service&& other) noexcept {
  if (this != &other) {
    detail::close(engine_, false);
    engine_ = std::move(other.engine_);
  }
  return *this;
}
Service::~Service() { detail::close(engine_, std::uncaught_exceptions() > 0); }
const std::string& Service::name() const { return detail::require(engine_).launch().name; }
std::vector<ReplicaStatus> Service::replicas() const { return detail::require(engine_).replicas(); }
ServiceCounters Service::counters() const { return detail::require(engine_).counters(); }
Tensor Service::allocate(DType dtype, const std::vector<std::int64_t>& shape) const {
  return detail::require(engine_).allocate(dtype, shape);
}
void Service::shutdown() { detail::close(engine_, false); }

ActorMesh::ActorMesh(std::shared_ptr<core::Engine> engine) : engine_(std::move(engine)) {}
ActorMesh::ActorMesh(ActorMesh&&) noexcept = default;
ActorMesh& ActorMesh::operator=(ActorMesh&& other) noexcept {
  if (this != &other) {
    detail::close(engine_, false);
    engine_ = std::move(other.engine_);
  }
  return *this;
}
ActorMesh::~ActorMesh() { detail::close(engine_, std::uncaught_exceptions() > 0); }
const std::string& ActorMesh::name() const { return detail::require(engine_).launch().name; }
std::size_t ActorMesh::size() const {
  return static_cast<std::size_t>(detail::require(engine_).launch().options.procs);
}
std::vector<int> ActorMesh::pids() const {
  return detail::require(engine_).replicas().front().pids;
}
Tensor ActorMesh::allocate(DType dtype, const std::vector<std::int64_t>& shape) const {
  return detail::require(engine_).allocate(dtype, shape);
}
void ActorMesh::shutdown() { detail::close(engine_, false); }

}  // namespace forge
