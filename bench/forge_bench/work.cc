#include "bench/forge_bench/work.h"

#include <cstring>
#include <random>

#include "bench/forge_bench/floor.h"
#include "tools/plugins/digits/data.h"
#include "tools/plugins/digits/model.h"

namespace forge::bench {

Bytes make_payload(std::size_t size, std::uint64_t seed) {
  Bytes payload(size);
  std::mt19937_64 random(seed);
  for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random();
    std::memcpy(payload.data() + at, &word, std::min(sizeof(word), size - at));
  }
  return payload;
}

Future<Bytes> BytesWork::send(std::uint64_t number) {
  std::memcpy(payload_.data(), &number, kNumberBytes);
  return callee(echo_, number).route(payload_);
}

bool BytesWork::check(std::uint64_t number, const Bytes& answer) const {
  return answer.size() == payload_.size() &&
         std::memcmp(answer.data(), &number, kNumberBytes) == 0 &&
         std::memcmp(answer.data() + kNumberBytes, payload_.data() + kNumberBytes,
                     payload_.size() - kNumberBytes) == 0;
}

TensorWork::TensorWork(const Service& service, Callees<Tensor(Tensor)> echo, bool rows,
                       std::size_t size, std::uint64_t seed)
    : service_(service),
      echo_(std::move(echo)),
      rows_(rows),
      source_(make_payload(size, seed)),
      shape_{static_cast<std::int64_t>(size)} {
  std::memset(source_.data(), 0, kNumberBytes);
  sum_ = sum_words(source_);
}

Future<Tensor> TensorWork::send(std::uint64_t number) {
  std::memcpy(source_.data(), &number, kNumberBytes);
  const Echo& echo = callee(echo_, number);
  Tensor tensor = rows_ ? echo.allocate(DType::u8, shape_) : service_.allocate(DType::u8, shape_);
  std::memcpy(tensor.span<std::byte>().data(), source_.data(), source_.size());
  return echo.route(tensor);
}

bool TensorWork::check(std::uint64_t number, const Tensor& answer) const {
  const std::span<const std::byte> bytes = answer.bytes();
  return bytes.size() == source_.size() && std::memcmp(bytes.data(), &number, kNumberBytes) == 0 &&
         sum_words(bytes) == sum_ + number;
}

DigitsWork::DigitsWork(Classify classify, Tally& tally)
    : classify_(std::move(classify)), tally_(tally) {
  const digits::ImageSet& set = digits::held_out_images();
  for (std::size_t i = 0; i < set.size(); ++i) {
    images_.emplace_back(set.image(i).begin(), set.image(i).end());
  }
  expected_.resize(set.size());
  digits::Mlp::trained().classify(set.pixels, expected_);
}

std::size_t DigitsWork::image_of(std::uint64_t number) { return number % digits::kHeldOutImages; }

Future<int> DigitsWork::send(std::uint64_t number) {
  return callee(classify_, number).route(images_[image_of(number)]);
}

bool DigitsWork::check(std::uint64_t number, int answer) const {
  const std::size_t image = image_of(number);
  ++tally_.asked;
  if (answer == digits::held_out_images().labels[image]) ++tally_.recognised;
  return answer == expected_[image];
}

}  // namespace forge::bench
