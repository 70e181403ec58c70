// Is this build instrumented by AddressSanitizer? Its runtime opens descriptors, takes signals and
// looks for leaks at exit, so a few tests cannot mean anything under it.
#pragma once

namespace forge::tests {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kUnderAsan = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
inline constexpr bool kUnderAsan = true;
#else
inline constexpr bool kUnderAsan = false;
#endif
#else
inline constexpr bool kUnderAsan = false;
#endif

}  // namespace forge::tests
