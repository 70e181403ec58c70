// What forge-bench says, to people and as JSON ("forge-bench/1").
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bench/forge_bench/run.h"

namespace forge::bench {

/// A JSON file that is opened before anything is measured, so that a bad path costs no run.
class JsonFile {
 public:
  /// Empty path: write() does nothing. Throws UsageError if it cannot be opened.
  explicit JsonFile(std::string path);
  /// Throws std::runtime_error if it cannot be written.
  void write(const nlohmann::ordered_json& value) const;

 private:
  std::string path_;
};

/// Schema, build and machine: what every report begins with.
nlohmann::ordered_json json_heading(const char* command);
nlohmann::ordered_json to_json(const FloorFigures& floor);
nlohmann::ordered_json to_json(const Options& options, const std::vector<Run>& runs);

/// One line each: name, then what it is.
std::string labelled(const std::string& label, const std::string& value);
std::string machine_line();
std::string describe(const FloorFigures& floor);

/// The whole report of echo and digits. Its last line says whether every request was answered
/// exactly once.
std::string to_text(const Options& options, const std::vector<Run>& runs);

bool answered_exactly_once(const std::vector<Run>& runs);

}  // namespace forge::bench
