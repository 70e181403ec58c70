// Errors: what forge throws, and what it carries between processes in place of an exception.
//
// Every error has a code, a class of its own and a message that says what happened, to which thing,
// and what to do. A `Status` is the same as plain data; `make_error` gives it its class back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace forge {

/// The numbers are part of the protocol between controller and worker: append, never reorder.
enum class ErrorCode : std::uint16_t {
  ok = 0,
  actor_error,
  worker_lost,
  poison_request,
  no_healthy_replicas,
  unavailable,
  backpressure,
  deadline_exceeded,
  cancelled,
  payload_too_large,
  unknown_actor,
  unknown_endpoint,
  signature_mismatch,
  session_lost,
  plugin_error,
  insufficient_gpus,
  not_supported,
  stopped,
  invalid_argument,
};
/// How many there are, with ok.
inline constexpr std::size_t kErrorCodes =
    static_cast<std::size_t>(ErrorCode::invalid_argument) + 1;

/// The class's name in snake_case, "ok" for ok, "unknown" for a number that is no code.
std::string_view to_string(ErrorCode code) noexcept;

/// The base of everything forge throws.
class Error : public std::runtime_error {
 public:
  ~Error() override;

  std::string_view code() const noexcept { return to_string(code_); }
  ErrorCode error_code() const noexcept { return code_; }

  /// Throws *this with its dynamic type.
  [[noreturn]] virtual void raise() const = 0;
  /// A copy with the same dynamic type.
  virtual std::shared_ptr<const Error> clone() const = 0;

 protected:
  Error(ErrorCode code, const std::string& message);
  Error(const Error&) = default;
  Error& operator=(const Error&) = default;

 private:
  ErrorCode code_;
};

namespace detail {
/// What the final classes share; `Derived` is the class itself.
template <class Derived, ErrorCode kCode>
class ErrorOf : public Error {
 public:
  explicit ErrorOf(const std::string& message) : Error(kCode, message) {}

  [[noreturn]] void raise() const final { throw static_cast<const Derived&>(*this); }
  std::shared_ptr<const Error> clone() const final {
    return std::make_shared<const Derived>(static_cast<const Derived&>(*this));
  }
};
}  // namespace detail

/// The endpoint threw. The message is "<where>: <type>: <text>".
class ActorError final : public detail::ErrorOf<ActorError, ErrorCode::actor_error> {
 public:
  explicit ActorError(const std::string& message) : ErrorOf(message), text_(message) {}
  ActorError(const std::string& where, std::string type, std::string text);

  /// The exception's type as written in C++, e.g. "std::out_of_range"; empty if unknown.
  const std::string& type() const noexcept { return type_; }
  /// What the exception said.
  const std::string& text() const noexcept { return text_; }

 private:
  std::string type_;
  std::string text_;
};

/// The worker died, or its replica did, before it answered.
class WorkerLost final : public detail::ErrorOf<WorkerLost, ErrorCode::worker_lost> {
 public:
  explicit WorkerLost(const std::string& message, bool maybe_executed = true)
      : ErrorOf(message), maybe_executed_(maybe_executed) {}

  /// False only when it is certain that no rank started the call.
  bool maybe_executed() const noexcept { return maybe_executed_; }

 private:
  bool maybe_executed_;
};

class PoisonRequest final : public detail::ErrorOf<PoisonRequest, ErrorCode::poison_request> {
  using ErrorOf::ErrorOf;
};
class NoHealthyReplicas final
    : public detail::ErrorOf<NoHealthyReplicas, ErrorCode::no_healthy_replicas> {
  using ErrorOf::ErrorOf;
};
class Unavailable final : public detail::ErrorOf<Unavailable, ErrorCode::unavailable> {
  using ErrorOf::ErrorOf;
};
class Backpressure final : public detail::ErrorOf<Backpressure, ErrorCode::backpressure> {
  using ErrorOf::ErrorOf;
};
class DeadlineExceeded final
    : public detail::ErrorOf<DeadlineExceeded, ErrorCode::deadline_exceeded> {
  using ErrorOf::ErrorOf;
};
class Cancelled final : public detail::ErrorOf<Cancelled, ErrorCode::cancelled> {
  using ErrorOf::ErrorOf;
};
class PayloadTooLarge final
    : public detail::ErrorOf<PayloadTooLarge, ErrorCode::payload_too_large> {
  using ErrorOf::ErrorOf;
};
class UnknownActor final : public detail::ErrorOf<UnknownActor, ErrorCode::unknown_actor> {
  using ErrorOf::ErrorOf;
};
class UnknownEndpoint final : public detail::ErrorOf<UnknownEndpoint, ErrorCode::unknown_endpoint> {
  using ErrorOf::ErrorOf;
};
class SignatureMismatch final
    : public detail::ErrorOf<SignatureMismatch, ErrorCode::signature_mismatch> {
  using ErrorOf::ErrorOf;
};
class SessionLost final : public detail::ErrorOf<SessionLost, ErrorCode::session_lost> {
  using ErrorOf::ErrorOf;
};
class PluginError final : public detail::ErrorOf<PluginError, ErrorCode::plugin_error> {
  using ErrorOf::ErrorOf;
};
class InsufficientGpus final
    : public detail::ErrorOf<InsufficientGpus, ErrorCode::insufficient_gpus> {
  using ErrorOf::ErrorOf;
};
class NotSupported final : public detail::ErrorOf<NotSupported, ErrorCode::not_supported> {
  using ErrorOf::ErrorOf;
};
class Stopped final : public detail::ErrorOf<Stopped, ErrorCode::stopped> {
  using ErrorOf::ErrorOf;
};
class InvalidArgument final : public detail::ErrorOf<InvalidArgument, ErrorCode::invalid_argument> {
  using ErrorOf::ErrorOf;
};

/// An error as plain data: what crosses a process boundary, and what internal functions return.
struct [[nodiscard]] Status {
  ErrorCode code = ErrorCode::ok;
  std::string message{};
  std::string type{};          ///< actor_error: the exception's type
  bool maybe_executed = true;  ///< worker_lost

  bool ok() const { return code == ErrorCode::ok; }
};

/// The error of the status's class. A status without an error, or with a code this build does not
/// know, becomes an InvalidArgument that says so: never null.
std::shared_ptr<const Error> make_error(const Status& status);
[[noreturn]] void throw_status(const Status& status);
/// The inverse of make_error.
Status to_status(const Error& error);

}  // namespace forge
