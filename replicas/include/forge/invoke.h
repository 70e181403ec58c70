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

/// Calls the method with values of the parameter types.
template <class A, class Method, class... Ps>
decltype(auto) call_method(const EndpointInfo& info, ForgeActor& actor, TypeList<Ps...>,
                           std::remove_cvref_t<Ps>&... args) {
  using Traits = MethodTraits<Method>;
  const Method method = method_of<Method>(info);
  typename Traits::Class& self = static_cast<A&>(actor);
  return (static_cast<typename Traits::Object>(self).*method)(static_cast<Ps&&>(args)...);
}

/// All arguments are there.
inline void begin_running(Invocation& call) {
  if (call.gate != nullptr) call.gate->arrive();
  call.phase = Invocation::Phase::running;
}

/// Calls `run`, which gives what an endpoint returns, and hands the outcome to `answer`, which
/// encodes it.
template <class Run, class Answer>
void run_method(Invocation& call, Run run, Answer answer) {
  begin_running(call);
  if constexpr (std::is_void_v<decltype(run())>) {
    run();
    answer();
  } else {
    auto&& result = run();
    if constexpr (std::is_reference_v<decltype(run())>) {
      answer(std::as_const(result));  // the actor's own
    } else {
      answer(result);
    }
  }
}

/// The same for coroutines. The arguments live in this one's frame until it has ended.
template <class Args, class Run, class Answer>
Detached run_coroutine(Invocation& call, Args args, Run run, Answer answer) {
  try {
    begin_running(call);
    using Value = typename ResultOf<decltype(run(args))>::Type;
    if constexpr (std::is_void_v<Value>) {
      co_await run(args);
      answer();
    } else {
      Value result = co_await run(args);
      answer(result);
    }
  } catch (...) {
    call.failure = std::current_exception();
  }
  call.sink.ended();
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
    auto method = [&info, &actor, params](auto& values) -> typename Traits::Return {
      return std::apply(
          [&](auto&... arg) ->
          typename Traits::Return { return call_method<A, Method>(info, actor, params, arg...); },
          values);
    };
    auto answer = [&call](const auto&... value) {
      call.phase = Invocation::Phase::encoding;
      call.out.restart(call.gate);
      if constexpr (sizeof...(value) == 0) {
        call.out.nil();
      } else {
        (Codec<Value>::encode(call.out, value), ...);
      }
      call.sink.value(call.out);
    };
    if constexpr (is_task<typename Traits::Return>) {
      run_coroutine(call, std::move(args), method, answer);
    } else {
      run_method(
          call, [&]() -> typename Traits::Return { return method(args); }, answer);
    }
  }
};

}  // namespace forge::detail
