#include <forge/error.h>
#include <forge/result.h>
#include <array>
#include <cstdlib>

namespace forge {
namespace {

constexpr std::array<std::string_view, 19> kNames = {
    "ok",
    "actor_error",
    "worker_lost",
    "poison_request",
    "no_healthy_replicas",
    "unavailable",
    "backpressure",
    "deadline_exceeded",
    "cancelled",
    "payload_too_large",
    "unknown_actor",
    "unknown_endpoint",
    "signature_mismatch",
    "session_lost",
    "plugin_error",
    "insufficient_gpus",
    "not_supported",
    "stopped",
    "invalid_argument",
};
static_assert(kNames.size() == static_cast<std::size_t>(ErrorCode::invalid_argument) + 1);

/// Takes "<where>: <type>: <text>" apart again.
std::shared_ptr<const Error> make_actor_error(const Status& status) {
  if (status.type.empty()) return std::make_shared<const ActorError>(status.message);
  const std::string marker = status.type + ": ";
  if (status.message.starts_with(marker)) {
    return std::make_shared<const ActorError>("", status.type,
                                              status.message.substr(marker.size()));
  }
  const std::size_t at = status.message.find(": " + marker);
  if (at == std::string::npos) return std::make_shared<const ActorError>(status.message);
  return std::make_shared<const ActorError>(status.message.substr(0, at), status.type,
                                            status.message.substr(at + 2 + marker.size()));
}

template <class E>
std::shared_ptr<const Error> make(const Status& status) {
  return std::make_shared<const E>(status.message);
}

}  // namespace

std::string_view to_string(ErrorCode code) noexcept {
  const auto number = static_cast<std::size_t>(code);
  return number < kNames.size() ? kNames[number] : "unknown";
}

Error::Error(ErrorCode code, const std::string& message)
    : std::runtime_error(message), code_(code) {}
Error::~Error() = default;

ActorError::ActorError(const std::string& where, std::string type, std::string text)
    : ErrorOf((where.empty() ? "" : where + ": ") + type + ": " + text),
      type_(std::move(type)),
      text_(std::move(text)) {}

std::shared_ptr<const Error> make_error(const Status& status) {
  switch (status.code) {
    case ErrorCode::ok:
      break;
    case ErrorCode::actor_error:
      return make_actor_error(status);
    case ErrorCode::worker_lost:
      return std::make_shared<const WorkerLost>(status.message, status.maybe_executed);
    case ErrorCode::poison_request:
      return make<PoisonRequest>(status);
    case ErrorCode::no_healthy_replicas:
      return make<NoHealthyReplicas>(status);
    case ErrorCode::unavailable:
      return make<Unavailable>(status);
    case ErrorCode::backpressure:
      return make<Backpressure>(status);
    case ErrorCode::deadline_exceeded:
      return make<DeadlineExceeded>(status);
    case ErrorCode::cancelled:
      return make<Cancelled>(status);
    case ErrorCode::payload_too_large:
      return make<PayloadTooLarge>(status);
    case ErrorCode::unknown_actor:
      return make<UnknownActor>(status);
    case ErrorCode::unknown_endpoint:
      return make<UnknownEndpoint>(status);
    case ErrorCode::signature_mismatch:
      return make<SignatureMismatch>(status);
    case ErrorCode::session_lost:
      return make<SessionLost>(status);
    case ErrorCode::plugin_error:
      return make<PluginError>(status);
    case ErrorCode::insufficient_gpus:
      return make<InsufficientGpus>(status);
    case ErrorCode::not_supported:
      return make<NotSupported>(status);
    case ErrorCode::stopped:
      return make<Stopped>(status);
    case ErrorCode::invalid_argument:
      return make<InvalidArgument>(status);
  }
  return std::make_shared<const InvalidArgument>(
      "a status with code " + std::to_string(static_cast<unsigned>(status.code)) +
      " cannot be turned into an error (\"" + status.message +
      "\"); build program, worker and plugin against the same forge");
}

void throw_status(const Status& status) {
  make_error(status)->raise();
  std::abort();  // raise() does not return; g++ forgets that for virtual functions
}

Status to_status(const Error& error) {
  Status status{.code = error.error_code(), .message = error.what()};
  if (const auto* actor = dynamic_cast<const ActorError*>(&error)) status.type = actor->type();
  if (const auto* lost = dynamic_cast<const WorkerLost*>(&error)) {
    status.maybe_executed = lost->maybe_executed();
  }
  return status;
}

namespace detail {
void throw_result_misuse(const char* what) { throw InvalidArgument(what); }
}  // namespace detail

}  // namespace forge
