// Batched endpoints: one call of the method for all elements of a batch. Each argument arrives as a
// vector with one element per call, or as one Tensor [n, ...] with their tensors stacked; a method
// without arguments may take their number. It answers likewise.
//
// Every element has its own arguments and its own answer, a value or an error.
#pragma once

#include <forge/invoke.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace forge {

/// One tensor [n, ...] of n tensors of one dtype and shape: a view where they adjoin, as the rows
/// that `endpoint.allocate` gives do; a copy otherwise. Throws InvalidArgument if they differ, or if
/// there are none.
Tensor stack(std::span<const Tensor> tensors);

}  // namespace forge

namespace forge::detail {

/// What one parameter of a batched method collects: kFits, its Element, and how elements become
/// the parameter's value.
template <class P>
struct BatchedParam {
  static constexpr bool kFits = false;
};
template <class T>
struct BatchedParam<std::vector<T>> {
  // A vector of bytes is forge::Bytes: one value, not a batch.
  static constexpr bool kFits = !std::is_same_v<T, std::byte> && is_payload<T>;
  using Element = T;
  static std::vector<T> collect(std::vector<T>&& elements) { return std::move(elements); }
};

/// How many tensors stack() had to copy in this process.
std::uint64_t copied_tensors() noexcept;
/// Row `index` of a tensor [n, ...], as a view.
Tensor row(const Tensor& stacked, std::size_t index);
/// n of a tensor [n, ...].
std::size_t rows(const Tensor& stacked);

template <>
struct BatchedParam<Tensor> {
  static constexpr bool kFits = true;
  using Element = Tensor;
  static Tensor collect(std::vector<Tensor>&& elements) {
    Tensor stacked = forge::stack(elements);
    elements.clear();  // so that only what the method is given is brought to the device
    return stacked;
  }
};

/// The same for what the method answers. `items` says one Result per element.
template <class R>
struct BatchedReturn {
  static constexpr bool kFits = false;
};
template <class R>
struct BatchedReturn<std::vector<R>> {
  static constexpr bool kFits = !std::is_same_v<R, std::byte> && is_payload<R>;
  using Element = R;
  static std::vector<Result<R>> items(std::vector<R>&& values) {
    std::vector<Result<R>> results;
    results.reserve(values.size());
    for (auto&& value : values) results.emplace_back(static_cast<R>(std::move(value)));
    return results;
  }
};
template <class R>
struct BatchedReturn<std::vector<Result<R>>> {
  static constexpr bool kFits = std::is_void_v<R> || is_payload<R>;
  using Element = R;
  static std::vector<Result<R>> items(std::vector<Result<R>>&& values) { return std::move(values); }
};
template <>
struct BatchedReturn<Tensor> {
  static constexpr bool kFits = true;
  using Element = Tensor;
  static std::vector<Result<Tensor>> items(Tensor&& stacked) {
    std::vector<Result<Tensor>> results;
    for (std::size_t i = 0; i < rows(stacked); ++i) results.emplace_back(row(stacked, i));
    return results;
  }
};
template <>
struct BatchedReturn<void> {
  static constexpr bool kFits = true;
  using Element = void;
};

/// An element's error as its caller sees it: an ActorError with type and text.
ErrorPtr as_actor_error(const Error& error);

template <class A, class Method>
struct BatchedInvoker {
  using Traits = MethodTraits<Method>;
  using Returned = typename ResultOf<typename Traits::Return>::Type;
  using Value = typename BatchedReturn<Returned>::Element;

  template <class... Ps>
  static std::string signature(TypeList<Ps...>) {
    return signature_of<Value(typename BatchedParam<std::remove_cvref_t<Ps>>::Element...)>();
  }
  static std::string signature(TypeList<std::size_t>) { return signature_of<Value()>(); }

  static void invoke(const EndpointInfo& info, ForgeActor& actor, Invocation& call) {
    run(info, actor, call, typename Traits::Params{});
  }

 private:
  // The number of elements is all there is.
  static void run(const EndpointInfo& info, ForgeActor& actor, Invocation& call,
                  TypeList<std::size_t> params) {
    for (Reader& args : call.args) decode_arguments<>(info.name, args);
    call_with(info, actor, call, params, std::tuple<std::size_t>(call.args.size()));
  }

  template <class... Ps>
  static void run(const EndpointInfo& info, ForgeActor& actor, Invocation& call,
                  TypeList<Ps...> params) {
    using Columns =
        std::tuple<std::vector<typename BatchedParam<std::remove_cvref_t<Ps>>::Element>...>;
    Columns columns;
    for (Reader& args : call.args) {
      auto row = decode_arguments<typename BatchedParam<std::remove_cvref_t<Ps>>::Element...>(
          info.name, args);
      append(columns, row, std::index_sequence_for<Ps...>{});
    }
    std::apply(
        [&](auto&... column) {
          call_with(info, actor, call, params,
                    std::tuple<std::remove_cvref_t<Ps>...>{
                        BatchedParam<std::remove_cvref_t<Ps>>::collect(std::move(column))...});
        },
        columns);
  }

  template <class Params, class Args>
  static void call_with(const EndpointInfo& info, ForgeActor& actor, Invocation& call,
                        Params params, Args args) {
    auto method = [&info, &actor, params](auto& values) -> typename Traits::Return {
      return std::apply(
          [&](auto&... arg) ->
          typename Traits::Return { return call_method<A, Method>(info, actor, params, arg...); },
          values);
    };
    auto give_all = [&info, &call](auto&... returned) { answer(info, call, returned...); };
    if constexpr (is_task<typename Traits::Return>) {
      run_coroutine(call, std::move(args), method, give_all);
    } else {
      run_method(
          call, [&]() -> typename Traits::Return { return method(args); }, give_all);
    }
  }

  template <class Columns, class Row, std::size_t... I>
  static void append(Columns& columns, Row& row, std::index_sequence<I...>) {
    (std::get<I>(columns).push_back(std::move(std::get<I>(row))), ...);
  }

  static void answer(const EndpointInfo&, Invocation& call) {
    call.phase = Invocation::Phase::encoding;
    for (std::size_t i = 0; i < call.args.size(); ++i) give(call, Result<void>());
  }
  static void answer(const EndpointInfo& info, Invocation& call, auto& returned) {
    Returned value(std::move(returned));
    if constexpr (std::is_same_v<Returned, Tensor>) leave_whole(call, value);
    auto items = BatchedReturn<Returned>::items(std::move(value));
    if (items.size() != call.args.size())
      throw_bad_batch(info.name, call.args.size(), items.size());
    call.phase = Invocation::Phase::encoding;
    for (const auto& item : items) give(call, item);
  }

  /// One copy for all rows.
  static void leave_whole(Invocation& call, Tensor& stacked) {
    if (call.gate == nullptr) return;
    call.phase = Invocation::Phase::encoding;
    stacked = call.gate->leave(stacked);
    call.phase = Invocation::Phase::running;
  }

  static void give(Invocation& call, const Result<Value>& item) {
    if (!item) {
      call.sink.error(*as_actor_error(item.error()));
      return;
    }
    call.out.restart(call.gate);
    if constexpr (std::is_void_v<Value>) {
      Codec<void>::encode(call.out);
    } else {
      Codec<Value>::encode(call.out, *item);
    }
    call.sink.value(call.out);
  }
};

}  // namespace forge::detail
