// System calls of this program that fail when they are told to.
//
// Not compiled into forge: the definitions in failing_calls.cc stand before libc's for the program
// that they are linked into, libforge-serve included. A program whose actors are linked in
// (controller.self()) has them in its workers, too.
#pragma once

#include <string>

namespace forge::failpoints {

/// The `n`th call from now, on any thread, fails with what the system would say if it were short of
/// something.
void fail_call(int n);

/// Back to normal. The name of the call that has failed; empty: there were fewer.
std::string stop_failing();

/// In a worker whose environment says so (kFailCall: which, from its birth), a call fails; the
/// first to come so far leaves the name of the call in the file kFailReport, and no other fails.
void fail_call_as_told();
inline constexpr const char* kFailCall = "FORGE_TEST_FAIL_CALL";
inline constexpr const char* kFailReport = "FORGE_TEST_FAIL_REPORT";

}  // namespace forge::failpoints
