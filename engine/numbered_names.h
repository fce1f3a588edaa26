// Names of modules and weights that differ in a number alone, as those of a model's layers do. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "assay/v1/test.pb.h"

namespace assay::engine {

// "encoder.layer.3.output" -> "encoder.layer.#.output": every part that is a number becomes #.
std::string WithoutNumbers(absl::string_view name);

// The places of the parts that are numbers, and the parts.
struct NumberedName {
  std::vector<std::string> parts;
  std::vector<size_t> numbers;
  // Parts [0, end), joined; the part at `wild` (if it is before `end`) is "#".
  std::string Joined(size_t end, size_t wild) const;
};
NumberedName SplitNumbered(absl::string_view name);

// "a, b, c and 4 more": as many as a message has room for.
std::string FirstOf(const std::vector<std::string>& names);

// True if `name` is left out: an exemption names it, in full or with # for each number.
template <typename Exemptions>
bool IsExempt(const Exemptions& exemptions, absl::string_view name) {
  const std::string general = WithoutNumbers(name);
  for (const v1::Exemption& one : exemptions) {
    if (one.name() == name || one.name() == general) return true;
  }
  return false;
}

}  // namespace assay::engine
