// What tests of actors in this process need: a context, and calls through the encoded form.
#pragma once

#include <forge/actor.h>
#include <forge/payload.h>
#include <forge/plugin.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "replicas/actor_host.h"

namespace forge::replicas {

/// Stands in for a worker, as far as an actor can see one.
class FakeContext : public Context {
 public:
  FakeContext() : before_(detail::set_context(this)) {}
  ~FakeContext() override { detail::set_context(before_); }

  int rank() const override { return 0; }
  int procs() const override { return 1; }
  int replica() const override { return 3; }
  std::uint64_t incarnation() const override { return 7; }
  const std::string& sess_id() const override { return session; }
  int device() const override { return -1; }
  std::size_t batch_size() const override { return 1; }
  bool cancelled() const override { return false; }

  std::string session;
  int allocated = 0;

 private:
  Tensor allocate_response(DType dtype, std::span<const std::int64_t> shape) override {
    ++allocated;
    return Tensor(dtype, {shape.begin(), shape.end()});
  }

  Context* before_;
};

/// Bytes as they would lie in shared memory.
class Block : public detail::TensorSource {
 public:
  Block() = default;
  explicit Block(const detail::Writer& writer)
      : head_(writer.head().size()), bytes_(writer.block_size()) {
    writer.write_to(bytes_.data());
  }

  detail::Reader reader() {
    const std::span<const std::byte> all(bytes_);
    return detail::Reader(all.first(head_), detail::blobs_of(all, head_), this);
  }

  Tensor in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                  std::span<const std::int64_t> shape) override {
    Tensor tensor(dtype, {shape.begin(), shape.end()});
    const auto blobs = detail::blobs_of(std::span<const std::byte>(bytes_), head_);
    std::ranges::copy(blobs.subspan(offset, size), tensor.span<std::byte>().data());
    tensor.storage()->frozen = true;
    return tensor;
  }
  Tensor in_home(std::uint64_t, std::uint64_t, DType, std::span<const std::int64_t>) override {
    throw InvalidArgument("these tests have no shared memory");
  }

 private:
  std::size_t head_ = 0;
  std::vector<std::byte> bytes_;
};

template <class... Args>
void encode_arguments(detail::Writer& writer, const Args&... args) {
  writer.array(sizeof...(Args));
  (detail::encode(writer, args), ...);
}

template <class... Args>
Block arguments_of(const Args&... args) {
  detail::Writer writer;
  encode_arguments(writer, args...);
  return Block(writer);
}

template <class R>
R value_in(Block& block) {
  detail::Reader reader = block.reader();
  R value = detail::Codec<R>::decode(reader);
  reader.finish();
  return value;
}

/// Takes an answer as a worker would: copies it out while the result lives.
struct CopyingSink final : detail::ResultSink {
  void value(detail::Writer& out) override {
    ++values;
    if (refuse) throw PayloadTooLarge("the answer does not fit; answer less");
    answer = Block(out);
    answers.emplace_back(out);
  }
  void error(const Error& error) override { errors.emplace_back(error.clone()); }
  void ended() noexcept override { ++ends; }
  std::vector<Block> answers;
  std::vector<std::shared_ptr<const Error>> errors;
  int values = 0;
  int ends = 0;
  bool refuse = false;
  Block answer;
};

/// Runs an endpoint that ends before invoke() returns.
inline ErrorCode run_endpoint(ActorHost& host, std::size_t endpoint, std::span<detail::Reader> args,
                              detail::Writer& out, detail::ResultSink& sink) {
  detail::Invocation call{args, out, sink};
  host.invoke(endpoint, call);
  return host.outcome(endpoint, call);
}

/// One actor and calls to it; errors become what a caller would catch.
class LocalActor {
 public:
  explicit LocalActor(std::unique_ptr<Module> module) : host_(std::move(module)) {}

  template <class... Args>
  Status create(const std::string& actor, const Args&... args) {
    detail::Writer writer;
    encode_arguments(writer, args...);
    Block block(writer);
    detail::Reader reader = block.reader();
    return host_.create(actor, reader);
  }

  std::size_t index(const std::string& endpoint) const {
    const auto& all = host_.info()->endpoints;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i].name == endpoint) return i;
    }
    ADD_FAILURE() << "no endpoint " << endpoint;
    return all.size();
  }

  /// Runs a request with these arguments.
  ErrorCode invoke(const std::string& endpoint, const detail::Writer& arguments,
                   CopyingSink& sink) {
    std::vector<Block> elements;
    elements.emplace_back(arguments);
    return invoke(endpoint, elements, sink);
  }

  /// Runs a batch, with the arguments of each element.
  ErrorCode invoke(const std::string& endpoint, std::vector<Block>& elements, CopyingSink& sink) {
    std::vector<detail::Reader> readers;
    for (Block& block : elements) readers.push_back(block.reader());
    out_.reset();
    return run_endpoint(host_, index(endpoint), readers, out_, sink);
  }

  template <class R, class... Args>
  Result<R> result(const std::string& endpoint, const Args&... args) {
    detail::Writer arguments;
    encode_arguments(arguments, args...);
    CopyingSink sink;
    if (invoke(endpoint, arguments, sink) != ErrorCode::ok) return error();
    if (!sink.errors.empty()) return sink.errors.front();
    detail::Reader answer = sink.answer.reader();
    if constexpr (std::is_void_v<R>) {
      detail::Codec<void>::decode(answer);
      answer.finish();
      return {};
    } else {
      R value = detail::Codec<R>::decode(answer);
      answer.finish();
      return value;
    }
  }

  template <class R, class... Args>
  R call(const std::string& endpoint, const Args&... args) {
    return result<R>(endpoint, args...).value();
  }

  /// The error that the last failing request left behind.
  std::shared_ptr<const Error> error() {
    Block block(out_);
    detail::Reader reader = block.reader();
    auto decoded = detail::Codec<Result<void>>::decode(reader);
    reader.finish();
    return decoded.error_ptr();
  }

  ActorHost& host() { return host_; }

 private:
  FakeContext context_;
  detail::Writer out_;
  ActorHost host_;
};

/// A module with whatever `define` registers.
template <class Define>
std::unique_ptr<Module> module_of(Define&& define) {
  auto module = std::make_unique<Module>();
  define(*module);
  return module;
}

}  // namespace forge::replicas
