// Arguments and results of endpoints as JSON. Types are the strings of a manifest (forge/payload.h).
#pragma once

#include <forge/payload.h>
#include <forge/wire.h>

#include <string>
#include <string_view>
#include <vector>

#include "core/frames.h"

namespace forge::tool {

/// One type, taken apart.
struct Type {
  enum class Kind {
    nothing,  // void
    boolean,
    integer,
    floating,
    text,
    bytes,
    tensor,
    list,  // parts: of the elements; count: if there must be so many
    tuple,
    map,  // from text to parts[0]
    optional,
    variant,
    structure,
    result,
    enclosing  // the structure `count` levels further out
  };
  Kind kind = Kind::nothing;
  std::string name;  // as it is written
  bool is_signed = false;
  std::size_t count = 0;
  std::vector<Type> parts = {};
  std::vector<std::string> fields = {};  // of a structure
};

struct SignatureTypes {
  Type result;
  std::vector<Type> arguments;
};

/// Throw InvalidArgument if it is no type forge writes.
Type parse_type(std::string_view text);
SignatureTypes parse_signature(std::string_view text);

/// An argument from a command line: JSON, or where text is wanted also the bare text. Throws
/// InvalidArgument.
core::Json parse_argument(const Type& type, const std::string& text);
/// Writes one value. Throws InvalidArgument, beginning with `where`, if it is not of the type; NotSupported
/// for tensors. The writer refers to strings of `value`: it must live until the writer has been read.
void encode(detail::Writer& writer, const Type& type, const core::Json& value,
            const std::string& where);
/// Reads one value. Bytes that are no text come as {"hex": …}, tensors as {"dtype", "shape", "data"}.
core::Json decode(detail::Reader& reader, const Type& type);

}  // namespace forge::tool
