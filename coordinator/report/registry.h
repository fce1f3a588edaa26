// The models a team tracks: models/registry.json.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace assay::report {

// From the most urgent; reports list them in this order.
enum class Priority { kCritical, kMedium, kLow };

// "critical", "medium", "low".
absl::string_view PriorityName(Priority priority);

struct TrackedModel {
  std::string name;  // underscores only
  Priority priority = Priority::kLow;
  std::string arch_type;       // "decoder_only", …
  uint32_t batch = 0;          // of the plan; 0: the plan names none
  bool named_by_plan = false;  // else the registry filled the name in
};

// In the order of the file; names are unique.
struct Registry {
  std::string note;
  std::vector<TrackedModel> models;

  // nullptr: not tracked.
  const TrackedModel* Find(absl::string_view name) const;
};

// INVALID_ARGUMENT naming `file`, the model and the field: broken JSON, a field that is unknown, missing or
// of the wrong type, an unknown priority, a name that is given twice.
absl::StatusOr<Registry> ParseRegistry(absl::string_view file, absl::string_view text);

// ParseRegistry over the file's content; NOT_FOUND where there is no such file.
absl::StatusOr<Registry> LoadRegistry(const std::string& path);

}  // namespace assay::report
