#pragma once

namespace forge {

/// How a thread waits for the other side: `spin` never sleeps (give each side a core), `adaptive`
/// spins for a bounded time while work is outstanding and then sleeps, `block` sleeps at once.
enum class Wait { spin, adaptive, block };

}  // namespace forge
