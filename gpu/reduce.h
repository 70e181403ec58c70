// Arithmetic of all_reduce on the host.
#pragma once

#include <forge/tensor.h>

#include <cstddef>
#include <span>

#include "gpu/group_file.h"

namespace forge::gpu {

/// Integers and floats of 32 and 64 bits, and narrower integers. Not bool, f16 and bf16.
bool can_reduce(DType dtype) noexcept;

/// into[i] = into[i] ∘ from[i]. Integers wrap around; min and max of a NaN and anything is NaN.
/// Preconditions: can_reduce(dtype), equal sizes, both aligned for the dtype.
void reduce(DType dtype, Reduction reduction, std::span<std::byte> into,
            std::span<const std::byte> from) noexcept;

}  // namespace forge::gpu
