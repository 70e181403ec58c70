// Ext values: how references and numbers look inside a head. Shared by Writer and Reader.
//
//   type  meaning              body
//   1     bytes out of band    offset u64, size u64
//   2     numbers              dtype u8, elements
//   3     numbers out of band  dtype u8, offset u64, size u64
//   4     tensor in the block  dtype u8, dims u8, offset u64, size u64, shape i64 each
//   5     tensor in home       the same; the offset counts from the start of home
//
// Offsets of 1, 3 and 4 count from the start of the blobs and are multiples of kBlockAlignment.
//
// All integers are little-endian, as on every machine forge runs on.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace forge::detail {

static_assert(std::endian::native == std::endian::little);

enum ExtType : std::int8_t {
  kExtBytes = 1,
  kExtInlineNumbers = 2,
  kExtNumbers = 3,
  kExtTensorInBlock = 4,
  kExtTensorInHome = 5,
};

constexpr std::size_t kReferenceSize = 16;
constexpr std::size_t kTensorHeadSize = 2 + kReferenceSize;

}  // namespace forge::detail
