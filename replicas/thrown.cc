#include "replicas/thrown.h"

#include <cxxabi.h>
#include <forge/error.h>

#include <exception>
#include <string_view>
#include <utility>

#include "replicas/type_name.h"

namespace forge::replicas {
namespace {

/// However deep a program nests; a cycle cannot be made.
constexpr int kMostCauses = 32;

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

/// std::throw_with_nested() throws a class of the library's own around the one it was given.
std::string without_wrapping(std::string name) {
  constexpr std::string_view kWrapping = "std::_Nested_exception<";
  if (!name.starts_with(kWrapping) || !name.ends_with('>')) return name;
  name = name.substr(kWrapping.size(), name.size() - kWrapping.size() - 1);
  while (name.ends_with(' ')) name.pop_back();
  return name;
}

std::string current_type() {
  const std::type_info* const type = abi::__cxa_current_exception_type();
  if (type == nullptr) return "unknown type";
  std::string name = type_name(*type);
  replace_all(name, "std::__cxx11::", "std::");
  replace_all(name, "std::basic_string<char, std::char_traits<char>, std::allocator<char> >",
              "std::string");
  replace_all(name, "std::basic_string_view<char, std::char_traits<char> >", "std::string_view");
  return without_wrapping(std::move(name));
}

template <class T>
bool holds_number(std::string& text) {
  try {
    throw;
  } catch (T value) {
    text = std::to_string(value);
    return true;
  } catch (...) {
    return false;
  }
}

template <class... T>
std::string number() {
  std::string text;
  return (holds_number<T>(text) || ...) ? text : "unknown exception";
}

std::string text_without_class() {
  try {
    throw;
  } catch (const char* text) {
    return text == nullptr ? "" : text;
  } catch (const std::string& text) {
    return text;
  } catch (std::string_view text) {
    return std::string(text);
  } catch (bool value) {
    return value ? "true" : "false";
  } catch (char value) {
    return std::string(1, value);
  } catch (...) {
    return number<int, long, long long, unsigned, unsigned long, unsigned long long, short,
                  unsigned short, signed char, unsigned char, float, double, long double>();
  }
}

Thrown outermost() {
  const std::string type = current_type();
  try {
    throw;
  } catch (const ActorError& error) {  // of an actor this one called: keep what it threw
    return {error.type().empty() ? type : error.type(), error.text()};
  } catch (const std::exception& error) {
    return {type, error.what() == nullptr ? "" : error.what()};
  } catch (...) {
    return {type, text_without_class()};
  }
}

std::exception_ptr current_cause() {
  try {
    throw;
  } catch (const std::nested_exception& outer) {
    return outer.nested_ptr();
  } catch (...) {
    return nullptr;
  }
}

}  // namespace

Thrown current_thrown() {
  Thrown thrown = outermost();
  std::exception_ptr cause = current_cause();
  for (int i = 0; cause != nullptr && i < kMostCauses; ++i) {
    try {
      std::rethrow_exception(cause);
    } catch (...) {
      const Thrown inner = outermost();
      thrown.text += "; caused by " + inner.type + ": " + inner.text;
      cause = current_cause();
    }
  }
  return thrown;
}

}  // namespace forge::replicas
