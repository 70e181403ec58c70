// Trains the digits model: minibatch Adam on the cross entropy with smoothed labels, over
// training_images() only. Its constants were chosen by training on three quarters of those and
// looking at the fourth, never at the held-out images.
//
// The same build, seed and epochs give the same weights to the last bit: one thread, one generator,
// and no distribution or shuffle whose algorithm a standard library may choose. Other compilers or
// instruction sets round differently and arrive at other weights of the same quality; that is why
// weights.txt is committed instead of being trained at build.
#pragma once

#include <cstdint>
#include <functional>

#include "tools/plugins/digits/model.h"

namespace forge::digits {

struct TrainOptions {
  std::uint64_t seed = 1;
  int epochs = 60;
};

struct EpochReport {
  int epoch = 0;      // counts from 1
  double loss = 0.0;  // mean of -ln p(true digit) over the epoch
};

/// Calls `on_epoch`, when there is one, after every epoch with the model so far. Throws
/// std::invalid_argument when `epochs` is below 1.
Mlp train(const TrainOptions& options,
          const std::function<void(const EpochReport&, const Mlp&)>& on_epoch = {});

}  // namespace forge::digits
