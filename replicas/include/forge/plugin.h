// Plugins: how an actor class becomes something that a worker can load and call.
//
//   FORGE_PLUGIN(m) {
//     m.actor<Counter, std::int64_t>("Counter", "Counts.")   // constructor argument types
//         .endpoint("value", &Counter::value)
//         .service_endpoint("add", &Counter::add, {.router = "least_loaded"})
//         .batched_endpoint("add_many", &Counter::add_many, {.batch_size = 8});
//   }
//
// In a shared object this makes a plugin; in a program it makes linked-in actors. Once per source
// file, in as many source files as you like.
#pragma once

#include <forge/batch.h>
#include <forge/invoke.h>
#include <forge/module.h>
#include <forge/snapshot.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace forge {

/// Picks one of several methods of a name by its argument types: overload<int>(&A::f). A method
/// that is overloaded on const as well needs a static_cast.
template <class... Args>
struct OverloadOf {
  template <class C, class R>
  constexpr auto operator()(R (C::*method)(Args...)) const {
    return method;
  }
  template <class C, class R>
  constexpr auto operator()(R (C::*method)(Args...) const) const {
    return method;
  }
};
template <class... Args>
inline constexpr OverloadOf<Args...> overload{};

/// Describes one actor class; every verb returns the builder.
template <class Actor>
class ActorBuilder {
 public:
  explicit ActorBuilder(detail::ActorInfo& info) : info_(info) {}

  /// What `plugin.actor(name)` starts from. `routers` and `endpoints` belong to the embedding
  /// program and throw InvalidArgument here.
  ActorBuilder& defaults(Options options) {
    info_.set_defaults(std::move(options));
    return *this;
  }

  /// A method as it is: round robin, no batching.
  template <class Method>
  ActorBuilder& endpoint(std::string name, Method method) {
    return add_single(std::move(name), method, EndpointKind::plain, {});
  }

  /// A method with options for services. With `batch_size` above 1, calls are routed as one batch
  /// and executed one by one.
  template <class Method>
  ActorBuilder& service_endpoint(std::string name, Method method, EndpointOptions options = {}) {
    return add_single(std::move(name), method, EndpointKind::service, std::move(options));
  }

  /// A method that takes a whole batch and answers element by element; see batch.h.
  template <class Method>
  ActorBuilder& batched_endpoint(std::string name, Method method, EndpointOptions options) {
    if constexpr (check_method<Method>() && check_batched<Method>()) {
      using Invoker = detail::BatchedInvoker<Actor, Method>;
      add(std::move(name), method, EndpointKind::batched, std::move(options), &Invoker::invoke,
          Invoker::signature(typename detail::MethodTraits<Method>::Params{}));
    }
    return *this;
  }

 private:
  template <class Method>
  static constexpr bool check_method() {
    using Traits = detail::MethodTraits<Method>;
    static_assert(Traits::kIsMethod,
                  "an endpoint is a member function: pass &Actor::method, or "
                  "forge::overload<Args...>(&Actor::method) if the name is overloaded");
    if constexpr (Traits::kIsMethod) {
      constexpr bool kOwn = std::is_base_of_v<typename Traits::Class, Actor>;
      static_assert(kOwn, "an endpoint is a member function of the actor class or of its base");
      static_assert(Traits::kNoOutParams,
                    "an endpoint's argument is a non-const reference; the caller is in another "
                    "process and would not see the change: return the value instead");
      return kOwn && Traits::kNoOutParams;
    } else {
      return false;
    }
  }

  template <class... Ps>
  static constexpr bool check_payloads(detail::TypeList<Ps...>) {
    (detail::require_payload<std::remove_cvref_t<Ps>>(), ...);
    return (detail::is_payload<Ps> && ...);
  }

  template <class... Ps>
  static constexpr bool check_batched_params(detail::TypeList<Ps...>) {
    constexpr bool kFit =
        sizeof...(Ps) != 0 && (detail::BatchedParam<std::remove_cvref_t<Ps>>::kFits && ...);
    static_assert(kFit,
                  "a batched endpoint takes one std::vector<T> per argument (T a payload), or one "
                  "stacked forge::Tensor [n, ...], or std::size_t for the number of calls");
    return kFit;
  }
  static constexpr bool check_batched_params(detail::TypeList<std::size_t>) { return true; }

  template <class Method>
  static constexpr bool check_batched() {
    using Traits = detail::MethodTraits<Method>;
    constexpr bool kAnswers =
        detail::BatchedReturn<typename detail::ResultOf<typename Traits::Return>::Type>::kFits;
    static_assert(kAnswers,
                  "a batched endpoint answers one std::vector<R> with an element per call (R a "
                  "payload), one stacked forge::Tensor [n, ...], std::vector<forge::Result<R>> for "
                  "errors of single elements, or void");
    return check_batched_params(typename Traits::Params{}) && kAnswers;
  }

  template <class Method>
  ActorBuilder& add_single(std::string name, Method method, EndpointKind kind,
                           EndpointOptions options) {
    if constexpr (check_method<Method>()) {
      using Traits = detail::MethodTraits<Method>;
      using Value = typename detail::ResultOf<typename Traits::Return>::Type;
      if constexpr (!std::is_void_v<Value>) detail::require_payload<Value>();
      if constexpr (check_payloads(typename Traits::Params{})) {
        using Invoker = detail::SingleInvoker<Actor, Method>;
        add(std::move(name), method, kind, std::move(options), &Invoker::invoke,
            Invoker::signature(typename Traits::Params{}));
      }
    }
    return *this;
  }

  template <class Method>
  void add(std::string name, Method method, EndpointKind kind, EndpointOptions options,
           detail::EndpointInfo::Invoke invoke, std::string signature) {
    detail::EndpointInfo endpoint{std::move(name), std::move(signature), kind, std::move(options),
                                  invoke};
    std::memcpy(endpoint.method.data(), &method, sizeof(method));
    endpoint.coroutine = detail::is_task<typename detail::MethodTraits<Method>::Return>;
    info_.add(std::move(endpoint));
  }

  detail::ActorInfo& info_;
};

template <class A, class... CtorArgs>
ActorBuilder<A> Module::actor(std::string name, std::string doc) {
  static_assert(std::is_base_of_v<ForgeActor, A>,
                "an actor derives publicly from forge::ForgeActor");
  static_assert(!std::is_abstract_v<A>, "an actor class may not be abstract");
  static_assert(std::is_constructible_v<A, CtorArgs...>,
                "m.actor<A, Args...>: A has no public constructor that takes these arguments");
  (detail::require_payload<std::remove_cvref_t<CtorArgs>>(), ...);
  detail::ActorInfo info;
  info.name = std::move(name);
  info.doc = std::move(doc);
  detail::append_types<std::remove_cvref_t<CtorArgs>...>(info.constructor);
  info.construct = &detail::construct_actor<A, CtorArgs...>;
  if constexpr (detail::KeepsSessions<A>) detail::StateInvoker<A>::add_to(info);
  return ActorBuilder<A>(add(std::move(info)));
}

namespace detail {

/// Spells what must be equal on both sides, at compile time, into a string with static storage.
class AbiTag {
 public:
  constexpr AbiTag() {
#if defined(_GLIBCXX_USE_CXX11_ABI) && _GLIBCXX_USE_CXX11_ABI
    append("libstdc++ cxx11");
#elif defined(__GLIBCXX__)
    append("libstdc++ cxx03");
#else
    append("another standard library");
#endif
    append_size(" string=", sizeof(std::string));
    append_size(" vector=", sizeof(std::vector<std::string>));
    append_size(" tensor=", sizeof(Tensor));
    append_size(" writer=", sizeof(Writer));
    append_size(" reader=", sizeof(Reader));
    append_size(" options=", sizeof(Options));
    append_size(" endpoint=", sizeof(EndpointInfo));
    append_size(" actor=", sizeof(ActorInfo));
    append_size(" module=", sizeof(Module));
    append_size(" call=", sizeof(Invocation));
  }
  constexpr const char* c_str() const { return text_.data(); }

 private:
  constexpr void append(const char* text) {
    while (*text != '\0') text_[length_++] = *text++;
  }
  constexpr void append_size(const char* name, std::size_t size) {
    append(name);
    std::size_t unit = 1;
    while (unit * 10 <= size) unit *= 10;
    for (; unit != 0; unit /= 10) text_[length_++] = static_cast<char>('0' + size / unit % 10);
  }

  std::array<char, 256> text_{};
  std::size_t length_ = 0;
};
[[gnu::visibility("hidden")]] inline constexpr AbiTag kAbiTag;

/// What this shared object or program shows. Hidden: every one has its own.
[[gnu::visibility("hidden")]] inline constexpr PluginEntry entry_of_this_object{
    kPluginMagic, kPluginAbi, sizeof(PluginEntry), kAbiTag.c_str(), &parts_of_this_object};

/// Adds a part to this object's list while it is alive, that is, while the object is loaded.
class PluginRecord {
 public:
  explicit PluginRecord(PluginPart& part) {
    PluginPart** end = &parts_of_this_object;
    while (*end != nullptr) end = &(*end)->next;
    *end = &part;
    forge_record_plugin(&entry_of_this_object);
  }
  PluginRecord(const PluginRecord&) = delete;
  PluginRecord& operator=(const PluginRecord&) = delete;
  ~PluginRecord() { forge_forget_plugin(&entry_of_this_object); }
};

}  // namespace detail
}  // namespace forge

// The symbol is weak because several source files of one program may define it; all of them define
// the same.
#define FORGE_PLUGIN(module)                                                             \
  static void forge_register_actors(::forge::Module& module);                            \
  static ::forge::detail::PluginPart forge_plugin_part{&forge_register_actors, nullptr}; \
  static const ::forge::detail::PluginRecord forge_plugin_record{forge_plugin_part};     \
  extern "C" {                                                                           \
  [[gnu::weak,                                                                           \
    gnu::visibility("default")]] extern const ::forge::detail::PluginEntry forge_plugin; \
  const ::forge::detail::PluginEntry forge_plugin{                                       \
      ::forge::detail::kPluginMagic, ::forge::detail::kPluginAbi,                        \
      sizeof(::forge::detail::PluginEntry), ::forge::detail::kAbiTag.c_str(),            \
      &::forge::detail::parts_of_this_object};                                           \
  }                                                                                      \
  static void forge_register_actors([[maybe_unused]] ::forge::Module& module)
