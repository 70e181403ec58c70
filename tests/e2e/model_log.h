// What the model test and its plugin share: the file in which executions are noted outside of forge,
// and what a call tells its execution to do.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace forge::e2e {

/// One line of the file. Its size divides a page, and a write inside of one page is whole or not
/// there when its writer is killed.
struct ModelRecord {
  std::int64_t call = 0;
  std::uint64_t session = 0;  ///< 0: none
  std::int32_t pid = 0;
  std::uint32_t execution = 0;  ///< of this process; the elements of a batch share it
  std::uint16_t size = 0;       ///< elements of the execution
  bool ends = false;            ///< it ends; else it begins
  bool throws = false;          ///< the execution as a whole is about to throw
  std::uint32_t unused = 0;
};
static_assert(sizeof(ModelRecord) == 32 && 4096 % sizeof(ModelRecord) == 0);

inline std::uint64_t session_number(std::string_view id) {
  return id.empty() ? 0 : std::hash<std::string_view>{}(id) | 1;
}

/// What a call wants of its execution; a number that is not negative is microseconds of work.
enum class Deed : std::int64_t {
  throws = -1,         ///< throw, with all others of the batch
  element_fails = -2,  ///< answer with an error; only this element of a batch does
  dies = -3,           ///< end the process
};

/// What a call answers.
constexpr std::int64_t answer_of(std::int64_t call) { return 3 * call + 1; }

}  // namespace forge::e2e
