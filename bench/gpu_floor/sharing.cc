// One buffer, two processes: what a worker pays for reading another's memory.
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/gpu_floor/floor.h"

namespace forge::gpu_floor {
namespace {

constexpr std::size_t kChunk = std::size_t{64} << 20;

std::uint64_t sum_words(const std::byte* data, std::size_t bytes) {
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at + sizeof(sum) <= bytes; at += sizeof(sum)) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + at, sizeof(word));
    sum += word * (at / sizeof(sum) | 1);  // words that change places show
  }
  return sum;
}

/// Writes chunks that all differ into the buffer; gives their sum.
std::uint64_t fill(gpu::Stream& stream, gpu::Buffer& buffer) {
  const RawPinned chunk(kChunk);
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at < buffer.size(); at += kChunk) {
    const std::size_t bytes = std::min(kChunk, buffer.size() - at);
    std::memcpy(chunk.data(), &at, sizeof(at));
    sum += sum_words(chunk.data(), bytes);
    expect(stream.copy_in(buffer, at, {chunk.data(), bytes}));
    expect(stream.synchronize());
  }
  return sum;
}

std::uint64_t sum_of(gpu::Stream& stream, const gpu::Buffer& buffer) {
  const RawPinned chunk(kChunk);
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at < buffer.size(); at += kChunk) {
    const std::size_t bytes = std::min(kChunk, buffer.size() - at);
    expect(stream.copy_out({chunk.data(), bytes}, buffer, at));
    expect(stream.synchronize());
    sum += sum_words(chunk.data(), bytes);
  }
  return sum;
}

}  // namespace

nlohmann::json measure_sharing(std::size_t bytes) {
  const auto backend = open_device();
  const auto stream = std::move(backend->make_stream()).value();
  const auto buffer = std::move(backend->allocate_shared(bytes)).value();
  const std::uint64_t sum = fill(*stream, *buffer);
  const gpu::IpcHandle handle = backend->export_buffer(*buffer).value();
  std::string hex;
  for (const std::byte byte : std::as_bytes(std::span(&handle, 1))) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned>(byte));
    hex += digits;
  }
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  // The other process begins anew: nothing of CUDA survives a fork.
  std::FILE* const pipe = ::popen(("'" + self + "' opener " + hex).c_str(), "re");
  if (pipe == nullptr) throw std::runtime_error("the other process could not be started");
  std::string output;
  char piece[4096];
  while (const std::size_t got = std::fread(piece, 1, sizeof(piece), pipe))
    output.append(piece, got);
  if (::pclose(pipe) != 0) throw std::runtime_error("the other process failed");
  nlohmann::json report = nlohmann::json::parse(output);
  report["equal"] = report.at("sum").get<std::uint64_t>() == sum;
  return report;
}

nlohmann::json open_shared(const std::string& hex) {
  gpu::IpcHandle handle;
  const auto bytes = std::as_writable_bytes(std::span(&handle, 1));
  if (hex.size() != 2 * bytes.size()) throw std::runtime_error("that is no handle of a buffer");
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  }
  const auto backend = open_device();
  const auto stream = std::move(backend->make_stream()).value();
  const auto shared = std::move(backend->import_buffer(handle)).value();
  const auto first = std::move(stream->allocate(shared->size())).value();
  const auto second = std::move(stream->allocate(shared->size())).value();
  const auto synchronize = [&] { expect(stream->synchronize()); };
  const auto gbps = [&](const gpu::Buffer& from, gpu::Buffer& to) {
    const auto copy = [&] { expect(stream->copy_between(to, 0, from, 0, from.size())); };
    return static_cast<double>(from.size()) / ns_per(copy, synchronize, 4, 7);
  };
  nlohmann::json report;
  report["shared_gbps"] = gbps(*shared, *first);
  report["local_gbps"] = gbps(*first, *second);
  report["sum"] = sum_of(*stream, *first);
  return report;
}

}  // namespace forge::gpu_floor
