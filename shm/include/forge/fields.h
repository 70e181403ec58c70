// FORGE_FIELDS: says which members of a struct travel, in which order.
//
//     struct Point { int x = 0; double y = 0; FORGE_FIELDS(x, y); };   // stays an aggregate
//     FORGE_FIELDS_OF(theirs::Point, x, y)                             // at global scope
//
// Up to 32 fields. The struct must be default constructible.
#pragma once

#include <cstddef>
#include <string_view>
#include <type_traits>

namespace forge::detail {

/// One member as it is handed to a visitor; T is const when the struct is.
template <class T>
struct Field {
  std::string_view name;
  T& value;
};
template <class T>
constexpr Field<T> field(std::string_view name, T& value) {
  return {name, value};
}

/// Specialised by FORGE_FIELDS_OF.
template <class T>
struct OutsideFields {};

template <class T>
concept has_inside_fields = std::is_class_v<T> && requires {
  T::forge_fields();
};
template <class T>
concept has_outside_fields = requires {
  OutsideFields<T>::forge_fields();
};
template <class T>
concept has_fields = has_inside_fields<T> || has_outside_fields<T>;

/// Calls visit(Field...) with all fields of `object`.
template <class T, class Visitor>
constexpr decltype(auto) with_fields(T& object, Visitor&& visit) {
  using Struct = std::remove_const_t<T>;
  if constexpr (has_inside_fields<Struct>) {
    return Struct::forge_fields()(object, visit);
  } else {
    return OutsideFields<Struct>::forge_fields()(object, visit);
  }
}

}  // namespace forge::detail

// A macro cannot recurse, but it can be rescanned: each level rescans four times as often.
#define FORGE_DETAIL_PARENS ()
#define FORGE_DETAIL_EXPAND(...) \
  FORGE_DETAIL_EXPAND2(          \
      FORGE_DETAIL_EXPAND2(FORGE_DETAIL_EXPAND2(FORGE_DETAIL_EXPAND2(__VA_ARGS__))))
#define FORGE_DETAIL_EXPAND2(...) \
  FORGE_DETAIL_EXPAND1(           \
      FORGE_DETAIL_EXPAND1(FORGE_DETAIL_EXPAND1(FORGE_DETAIL_EXPAND1(__VA_ARGS__))))
#define FORGE_DETAIL_EXPAND1(...) \
  FORGE_DETAIL_EXPAND0(           \
      FORGE_DETAIL_EXPAND0(FORGE_DETAIL_EXPAND0(FORGE_DETAIL_EXPAND0(__VA_ARGS__))))
#define FORGE_DETAIL_EXPAND0(...) __VA_ARGS__
#define FORGE_DETAIL_FIELDS(...) \
  __VA_OPT__(FORGE_DETAIL_EXPAND(FORGE_DETAIL_NEXT_FIELD(__VA_ARGS__)))
#define FORGE_DETAIL_NEXT_FIELD(name, ...)         \
  ::forge::detail::field(#name, forge_object.name) \
      __VA_OPT__(, FORGE_DETAIL_NEXT_FIELD_AGAIN FORGE_DETAIL_PARENS(__VA_ARGS__))
#define FORGE_DETAIL_NEXT_FIELD_AGAIN() FORGE_DETAIL_NEXT_FIELD

// A lambda, not a member template: local structs may not have those.
#define FORGE_FIELDS(...)                                                                 \
  static constexpr auto forge_fields() noexcept {                                         \
    return []([[maybe_unused]] auto& forge_object, auto& forge_visit) -> decltype(auto) { \
      return forge_visit(FORGE_DETAIL_FIELDS(__VA_ARGS__));                               \
    };                                                                                    \
  }

#define FORGE_FIELDS_OF(type, ...)            \
  template <>                                 \
  struct forge::detail::OutsideFields<type> { \
    FORGE_FIELDS(__VA_ARGS__)                 \
  };
