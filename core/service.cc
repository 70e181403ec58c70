#include <forge/service.h>

#include <exception>

#include "core/engine.h"
#include "core/fork.h"
#include "core/host.h"
#include "core/router_scope.h"

namespace forge {
namespace detail {

Writer& arguments_writer(const EndpointRef& endpoint) {
  static thread_local Writer writer;
  writer.reset(endpoint.engine->home());
  if (const std::string_view session = session_of(endpoint); !session.empty())
    writer.string(session);
  return writer;
}

AnswerState* submit(const EndpointRef& endpoint, CallMode mode, Writer& arguments) {
  core::require_no_router();
  return endpoint.engine->submit(endpoint, mode, session_of(endpoint), arguments);
}

std::string_view session_of(const EndpointRef& endpoint) {
  if (!endpoint.options.sess_id.empty()) return endpoint.options.sess_id;
  for (const Session* session = scope().session; session != nullptr; session = session->outer_) {
    if (session->engine_ == endpoint.engine) return session->id_;
  }
  return {};
}

Tensor allocate_row(const EndpointRef& endpoint, DType dtype,
                    const std::vector<std::int64_t>& shape, Timeout timeout) {
  core::require_no_router();
  return endpoint.engine->allocate_row(endpoint.index, dtype, shape, timeout);
}

OwnedCallOptions own(const CallOptions& options) {
  return {std::string(options.sess_id), options.timeout, std::string(options.key), options.cancel};
}

void throw_does_not_fit(const std::string& number, std::size_t bytes, bool integer) {
  throw InvalidArgument("argument " + number + " does not fit the endpoint's " +
                        (integer ? "integer" : "floating point number") + " of " +
                        std::to_string(bytes) + " bytes; pass a value that does");
}

namespace {

/// At once while an exception unwinds: the program wants to end. In a router nobody can wait for it: the
/// controller closes it then.
void close(const std::shared_ptr<core::Engine>& engine, bool at_once) {
  if (!engine || core::in_router() || core::leaked_in_fork(engine)) return;
  engine->shutdown(at_once ? std::chrono::nanoseconds::zero() : engine->grace());
}

core::Engine& require(const std::shared_ptr<core::Engine>& engine) {
  if (!engine) throw Stopped("this handle has been moved from; use the one it was moved to");
  return *engine;
}

/// To do what takes its lock.
core::Engine& steer(const std::shared_ptr<core::Engine>& engine) {
  core::require_no_router();
  return require(engine);
}

}  // namespace

EndpointRef bind(const std::shared_ptr<core::Engine>& engine, std::string_view name,
                 const std::string& signature, bool wants_mesh) {
  return steer(engine).bind(name, signature, wants_mesh);
}

}  // namespace detail

Session::Session(std::shared_ptr<core::Engine> engine, const SessionOptions& options)
    : engine_(std::move(engine)),
      id_(detail::steer(engine_).start_session(options.strict)),
      outer_(detail::scope().session) {
  detail::scope().session = this;
}

Session::~Session() {
  if (detail::scope().session == this)
    detail::scope().session = outer_;  // else: a task that never went on
  if (!core::leaked_in_fork(engine_)) engine_->terminate_session(id_);
}

std::string Service::start_session(const SessionOptions& options) const {
  return detail::steer(engine_).start_session(options.strict);
}
void Service::terminate_session(std::string_view id) const {
  detail::steer(engine_).terminate_session(id);
}
std::map<std::string, std::uint32_t, std::less<>> Service::session_map() const {
  return detail::steer(engine_).session_map();
}

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
std::vector<ReplicaStatus> Service::replicas() const { return detail::steer(engine_).replicas(); }
std::vector<ReplicaStatus> Service::spares() const { return detail::steer(engine_).spares(); }
ServiceCounters Service::counters() const { return detail::steer(engine_).counters(); }
ServiceMetrics Service::get_metrics() const { return detail::steer(engine_).metrics(); }
MetricsSummary Service::get_metrics_summary() const {
  return detail::steer(engine_).metrics_summary();
}
Tensor Service::allocate(DType dtype, const std::vector<std::int64_t>& shape,
                         std::optional<std::chrono::nanoseconds> timeout) const {
  return detail::steer(engine_).allocate(dtype, shape, timeout);
}
void Service::restart_replicas() const { detail::steer(engine_).restart_replicas(); }

void Service::scale(int num_replicas) const { detail::steer(engine_).scale(num_replicas); }
void Service::shutdown() {
  core::require_no_router();
  detail::close(engine_, false);
}

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
std::vector<int> ActorMesh::pids() const { return detail::steer(engine_).replicas().front().pids; }
Tensor ActorMesh::allocate(DType dtype, const std::vector<std::int64_t>& shape,
                           std::optional<std::chrono::nanoseconds> timeout) const {
  return detail::steer(engine_).allocate(dtype, shape, timeout);
}
void ActorMesh::shutdown() {
  core::require_no_router();
  detail::close(engine_, false);
}

}  // namespace forge
