#include "gpu/group_file.h"

#include <string>

namespace forge::gpu {
namespace {

std::string_view name_of(Operation operation) {
  switch (operation) {
    case Operation::barrier:
      return "barrier";
    case Operation::broadcast:
      return "broadcast";
    case Operation::all_reduce:
      return "all_reduce";
    case Operation::all_gather:
      return "all_gather";
    case Operation::refused:
      return "a collective with wrong arguments";
  }
  return "an unknown collective";
}

}  // namespace

std::string_view name_of(Reduction reduction) {
  switch (reduction) {
    case Reduction::sum:
      return "sum";
    case Reduction::product:
      return "product";
    case Reduction::min:
      return "min";
    case Reduction::max:
      return "max";
  }
  return "unknown reduction";
}

std::string describe(const GroupCall& call) {
  std::string text(name_of(call.operation));
  if (call.operation == Operation::barrier || call.operation == Operation::refused) return text;
  text += "(";
  if (call.operation == Operation::all_reduce) {
    text += std::string(name_of(call.reduction)) + ", ";
  }
  text += std::to_string(call.bytes) + " bytes of " + std::string(to_string(call.dtype));
  if (call.place == Place::device) text += " in device memory";
  if (call.operation == Operation::broadcast) text += ", root " + std::to_string(call.root);
  if (call.offset != 0) text += ", from byte " + std::to_string(call.offset);
  return text + ")";
}

}  // namespace forge::gpu
