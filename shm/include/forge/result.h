// Result<T>: a value or the error that came instead of it, much like std::expected.
#pragma once

#include <forge/error.h>
#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>

namespace forge {

namespace detail {
using ErrorPtr = std::shared_ptr<const Error>;

[[noreturn]] void throw_result_misuse(const char* what);
inline ErrorPtr require_error(ErrorPtr error) {
  if (!error) throw_result_misuse("a Result was made from a null error; pass a value or an error");
  return error;
}
}  // namespace detail

/// Holds a T or an error, never neither. `error()` of a value and `*` of an error are mistakes of
/// the caller; both throw.
template <class T>
class [[nodiscard]] Result {
  static_assert(std::is_object_v<T> && !std::is_array_v<T>, "Result<T> holds objects or void");

 public:
  using value_type = T;

  Result() requires std::default_initializable<T> : state_(std::in_place_index<0>) {}

  // The constraints keep it away from copies and moves.
  template <class U = T>
  requires(!std::same_as<std::remove_cvref_t<U>, Result> &&
           !std::derived_from<std::remove_cvref_t<U>, Error> &&
           !std::same_as<std::remove_cvref_t<U>, detail::ErrorPtr> &&
           // NOLINTNEXTLINE(bugprone-forwarding-reference-overload)
           std::constructible_from<T, U>) explicit(!std::convertible_to<U, T>) Result(U&& value)
      : state_(std::in_place_index<0>, std::forward<U>(value)) {}

  Result(detail::ErrorPtr error)
      : state_(std::in_place_index<1>, detail::require_error(std::move(error))) {}
  Result(const Error& error) : Result(error.clone()) {}

  bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  /// Throws the error, with its dynamic type, if there is no value.
  T& value() & { return check(), *std::get_if<0>(&state_); }
  const T& value() const& { return check(), *std::get_if<0>(&state_); }
  /// By value: `for (auto& x : future.result().value())` does not dangle.
  T value() && { return check(), std::move(*std::get_if<0>(&state_)); }
  template <class U>
  T value_or(U&& other) const& {
    return has_value() ? *std::get_if<0>(&state_) : static_cast<T>(std::forward<U>(other));
  }
  template <class U>
  T value_or(U&& other) && {
    return has_value() ? std::move(*std::get_if<0>(&state_))
                       : static_cast<T>(std::forward<U>(other));
  }

  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const { return *error_ptr(); }
  const std::shared_ptr<const Error>& error_ptr() const {
    if (has_value()) {
      detail::throw_result_misuse("error() of a Result with a value; ask has_value() first");
    }
    return *std::get_if<1>(&state_);
  }

 private:
  void check() const {
    if (!has_value()) error().raise();
  }

  std::variant<T, detail::ErrorPtr> state_;
};

/// A success without a value, or an error.
template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() = default;
  Result(detail::ErrorPtr error) : error_(detail::require_error(std::move(error))) {}
  Result(const Error& error) : Result(error.clone()) {}

  bool has_value() const noexcept { return !error_; }
  explicit operator bool() const noexcept { return has_value(); }

  void value() const {
    if (error_) error_->raise();
  }
  void operator*() const { value(); }

  const Error& error() const { return *error_ptr(); }
  const std::shared_ptr<const Error>& error_ptr() const {
    if (!error_) {
      detail::throw_result_misuse("error() of a Result with a value; ask has_value() first");
    }
    return error_;
  }

 private:
  detail::ErrorPtr error_;
};

}  // namespace forge
