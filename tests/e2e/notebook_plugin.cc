// Actors that keep something for each session, and say how it comes back.
#include <forge/plugin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using Numbers = std::vector<std::int64_t>;

namespace {

/// `fault`: "save" or "restore" throws.
class Notebook : public forge::ForgeActor {
 public:
  explicit Notebook(std::string fault) : fault_(std::move(fault)) {}

  std::int64_t append(std::int64_t number) {
    mine().push_back(number);
    return std::ssize(mine());
  }
  /// Large arguments of which little is kept.
  std::int64_t append_size(const forge::Bytes& bytes) { return append(std::ssize(bytes)); }
  std::int64_t append_and_throw(std::int64_t number) {
    append(number);
    throw std::runtime_error("appended all the same");
  }
  /// Dies when it is run for the second time.
  std::int64_t append_once(std::int64_t number, const std::string& file) {
    if (std::filesystem::exists(file)) std::abort();
    std::ofstream(file) << number;
    return append(number);
  }
  /// On every rank another number.
  std::int64_t append_rank(std::int64_t number) {
    return append(number * 10 + forge::context().rank());
  }
  Numbers numbers() { return mine(); }

  Numbers save() {
    if (fault_ == "save") throw std::runtime_error("there is no paper");
    return mine();
  }
  void restore(Numbers numbers) {
    if (fault_ == "restore") throw std::runtime_error("it is not my hand");
    mine() = std::move(numbers);
  }

 protected:
  Numbers& mine() { return books_[forge::context().sess_id()]; }

 private:
  std::string fault_;
  std::map<std::string, Numbers> books_;
};

/// Whose calls interleave.
class TaskNotebook : public Notebook {
 public:
  using Notebook::Notebook;
  forge::Task<std::int64_t> append_slowly(std::int64_t number) {
    Numbers& book = mine();
    book.push_back(-number);
    co_await forge::sleep_for(100us);
    book.back() = number;
    co_return std::ssize(book);
  }
};

/// What it keeps is a tensor, in the worker's response memory.
class Canvas : public forge::ForgeActor {
 public:
  std::int64_t paint(std::int64_t at, float value) {
    forge::Tensor& canvas = mine();
    if (canvas.bytes().empty()) {
      canvas = forge::context().allocate(forge::DType::f32, {4096});
      std::ranges::fill(canvas.span<float>(), 0.0F);
    }
    canvas.span<float>()[static_cast<std::size_t>(at)] = value;
    return at;
  }
  std::vector<float> pixels() {
    const auto all = mine().span<const float>();
    return {all.begin(), all.end()};
  }
  forge::Tensor save() { return mine(); }
  void restore(const forge::Tensor& canvas) { mine() = canvas; }

 private:
  forge::Tensor& mine() { return canvases_[forge::context().sess_id()]; }
  std::map<std::string, forge::Tensor> canvases_;
};

}  // namespace

FORGE_PLUGIN(m) {
  const auto common = [](auto builder) {
    return builder.endpoint("append", &Notebook::append)
        .endpoint("append_size", &Notebook::append_size)
        .endpoint("append_and_throw", &Notebook::append_and_throw)
        .endpoint("append_once", &Notebook::append_once)
        .endpoint("append_rank", &Notebook::append_rank)
        .endpoint("numbers", &Notebook::numbers);
  };
  common(m.actor<Notebook, std::string>("Notebook", "Keeps a list of numbers for each session."));
  common(m.actor<TaskNotebook, std::string>("TaskNotebook"))
      .endpoint("append_slowly", &TaskNotebook::append_slowly);
  m.actor<Canvas>("Canvas").endpoint("paint", &Canvas::paint).endpoint("pixels", &Canvas::pixels);
}
