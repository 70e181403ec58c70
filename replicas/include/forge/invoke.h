// From a member function of an actor to a plain function that a worker can call: decodes the
// arguments, calls, encodes the result. No heap of its own, no std::function.
#pragma once

#include <forge/module.h>
#include <forge/payload.h>
#include <forge/result.h>
#include <forge/task.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace forge::detail {

template <class... Ts>
struct TypeList {};

/// Takes a pointer to member function apart. `Object` is how the actor is handed to it.
template <class Method>
struct MethodTraits {
  static constexpr bool kIsMethod = false;
};
#define FORGE_DETAIL_METHOD(qualifiers, object)                                                    \
  template <class C, class R, class... Ps>                                                         \
  struct MethodTraits<R (C::*)(Ps...) qualifiers> {                                                \
    static constexpr bool kIsMethod = true;                                                        \
    using Class = C;                                                                               \
    using Object = object;                                                                         \
    using Return = R;                                                                              \
    using Params = TypeList<Ps...>;                                                                \
    using Values = std::tuple<std::remove_cvref_t<Ps>...>;                                         \
    static constexpr bool kAllPayloads = (is_payload<std::remove_cvref_t<Ps>> && ...);             \
    static constexpr bool kNoOutParams =                                                           \
        (!(std::is_lvalue_reference_v<Ps> && !std::is_const_v<std::remove_reference_t<Ps>>)&&...); \
  };
FORGE_DETAIL_METHOD(, C&)
FORGE_DETAIL_METHOD(&, C&)
FORGE_DETAIL_METHOD(&&, C&&)
FORGE_DETAIL_METHOD(const, const C&)
FORGE_DETAIL_METHOD(const&, const C&)
FORGE_DETAIL_METHOD(const&&, const C&&)
FORGE_DETAIL_METHOD(noexcept, C&)
FORGE_DETAIL_METHOD(&noexcept, C&)
FORGE_DETAIL_METHOD(&&noexcept, C&&)
FORGE_DETAIL_METHOD(const noexcept, const C&)
FORGE_DETAIL_METHOD(const& noexcept, const C&)
FORGE_DETAIL_METHOD(const&& noexcept, const C&&)
#undef FORGE_DETAIL_METHOD

/// What a call of the method gives once a Task has run: without references and const.
template <class R>
struct ResultOf {
  using Type = std::remove_cvref_t<R>;
};
template <class T>
struct ResultOf<Task<T>> {
  using Type = T;
};
template <class R>
inline constexpr bool is_task = false;
template <class T>
inline constexpr bool is_task<Task<T>> = true;

template <class... Ts>
void append_types(std::vector<std::string>& out) {
  (Codec<Ts>::type(out.emplace_back()), ...);
}

/// Throw SignatureMismatch and InvalidArgument. `where` names an endpoint or a constructor.
void check_argument_count(std::string_view where, std::size_t wanted, std::size_t got);
[[noreturn]] void throw_bad_argument(std::string_view where, std::size_t index,
                                     const std::vector<std::string>& types, const Error& cause);
[[noreturn]] void throw_bad_batch(std::string_view where, std::size_t wanted, std::size_t got);

/// Reads one array of arguments.
template <class... Ts>
std::tuple<Ts...> decode_arguments(std::string_view where, Reader& in) {
  check_argument_count(where, sizeof...(Ts), in.array());
  std::size_t index = 0;
  [[maybe_unused]] const auto next = [&]<class T>(std::type_identity<T>) {
    ++index;
    return Codec<T>::decode(in);
  };
  try {
    return std::tuple<Ts...>{next(std::type_identity<Ts>{})...};  // braces: left to right
  } catch (const Error& error) {
    std::vector<std::string> types;
    append_types<Ts...>(types);
    throw_bad_argument(where, index, types, error);
  }
}

template <class A, class... CtorArgs>
std::unique_ptr<ForgeActor> construct_actor(const ActorInfo& info, Reader& in, bool& running) {
  auto args =
      decode_arguments<std::remove_cvref_t<CtorArgs>...>("the constructor of " + info.name, in);
  running = true;
  return std::apply(
      [](auto&... arg) -> std::unique_ptr<ForgeActor> {
        return std::make_unique<A>(static_cast<CtorArgs&&>(arg)...);
      },
      args);
}

template <class Method>
Method method_of(const EndpointInfo& info) {
  static_assert(sizeof(Method) <= sizeof(info.method));
  Method method;
  std::memcpy(&method, info.method.data(), sizeof(method));
  return method;
}

/// Calls the method with values of the parameter types; a Task is run to its end.
template <class A, class Method, class... Ps>
decltype(auto) call_method(const EndpointInfo& info, ForgeActor& actor, TypeList<Ps...>,
                           std::remove_cvref_t<Ps>&... args) {
  using Traits = MethodTraits<Method>;
  const Method method = method_of<Method>(info);
  typename Traits::Class& self = static_cast<A&>(actor);
  auto run = [&]() -> typename Traits::Return {
    return (static_cast<typename Traits::Object>(self).*method)(static_cast<Ps&&>(args)...);
  };
  if constexpr (is_task<typename Traits::Return>) {
    return sync_run(run());
  } else {
    return run();
  }
}

/// Endpoints of both kinds that run one call at a time.
template <class A, class Method>
struct SingleInvoker {
  using Traits = MethodTraits<Method>;
  using Value = typename ResultOf<typename Traits::Return>::Type;

  template <class... Ps>
  static std::string signature(TypeList<Ps...>) {
    return signature_of<Value(std::remove_cvref_t<Ps>...)>();
  }

  static void invoke(const EndpointInfo& info, ForgeActor& actor, Invocation& call) {
    run(info, actor, call, typename Traits::Params{});
  }

 private:
  template <class... Ps>
  static void run(const EndpointInfo& info, ForgeActor& actor, Invocation& call,
                  TypeList<Ps...> params) {
    auto args = decode_arguments<std::remove_cvref_t<Ps>...>(info.name, call.args.front());
    auto apply = [&]() -> decltype(auto) {
      return std::apply(
          [&](auto&... arg) -> decltype(auto) {
            return call_method<A, Method>(info, actor, params, arg...);
          },
          args);
    };
    call.phase = Invocation::Phase::running;
    if constexpr (std::is_void_v<Value>) {
      apply();
      call.phase = Invocation::Phase::encoding;
      call.out.nil();
      call.sink.value(call.out);
    } else {
      auto&& value = apply();
      call.phase = Invocation::Phase::encoding;
      Codec<Value>::encode(call.out, value);
      call.sink.value(call.out);
    }
  }
};

}  // namespace forge::detail
