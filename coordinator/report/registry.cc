#include "coordinator/report/registry.h"

#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace assay::report {
namespace {

using Json = nlohmann::json;

// Where an error is: "models/registry.json: models[3] (bert)".
class Place {
 public:
  Place(absl::string_view file, absl::string_view path) : text_(absl::StrCat(file, ": ", path)) {}
  void Name(absl::string_view name) { absl::StrAppend(&text_, " (", name, ")"); }
  absl::Status Error(absl::string_view message) const {
    return absl::InvalidArgumentError(absl::StrCat(text_, ": ", message));
  }

 private:
  std::string text_;
};

bool IsName(absl::string_view name) {
  if (name.empty()) return false;
  for (char c : name) {
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_')) return false;
  }
  return true;
}

absl::StatusOr<std::string> TextField(const Json& object, const char* field, const Place& place) {
  auto found = object.find(field);
  if (found == object.end()) return place.Error(absl::StrCat("'", field, "' is missing"));
  if (!found->is_string()) return place.Error(absl::StrCat("'", field, "' is not a string"));
  return found->get<std::string>();
}

absl::StatusOr<TrackedModel> ParseModel(const Json& object, Place place) {
  if (!object.is_object()) return place.Error("not an object");
  TrackedModel model;
  ASSAY_ASSIGN_OR_RETURN(model.name, TextField(object, "name", place));
  place.Name(model.name);
  if (!IsName(model.name))
    return place.Error("'name' may have lower-case letters, digits and underscores only");
  for (const auto& [field, value] : object.items()) {
    if (field != "name" && field != "priority" && field != "arch_type" && field != "batch" &&
        field != "named_by") {
      return place.Error(absl::StrCat("unknown field '", field, "'"));
    }
  }
  ASSAY_ASSIGN_OR_RETURN(std::string priority, TextField(object, "priority", place));
  if (priority == "critical") {
    model.priority = Priority::kCritical;
  } else if (priority == "medium") {
    model.priority = Priority::kMedium;
  } else if (priority == "low") {
    model.priority = Priority::kLow;
  } else {
    return place.Error(absl::StrCat("priority '", priority, "': critical, medium or low"));
  }
  ASSAY_ASSIGN_OR_RETURN(model.arch_type, TextField(object, "arch_type", place));
  if (!IsName(model.arch_type)) return place.Error("'arch_type' is no name");
  ASSAY_ASSIGN_OR_RETURN(std::string named_by, TextField(object, "named_by", place));
  if (named_by != "plan" && named_by != "registry") {
    return place.Error(absl::StrCat("named_by '", named_by, "': plan or registry"));
  }
  model.named_by_plan = named_by == "plan";
  if (auto batch = object.find("batch"); batch != object.end()) {
    if (!batch->is_number_unsigned() || batch->get<uint64_t>() == 0 || batch->get<uint64_t>() > 1000) {
      return place.Error("'batch' is not a number from 1 to 1000");
    }
    model.batch = batch->get<uint32_t>();
  }
  return model;
}

}  // namespace

absl::string_view PriorityName(Priority priority) {
  switch (priority) {
    case Priority::kCritical:
      return "critical";
    case Priority::kMedium:
      return "medium";
    case Priority::kLow:
      return "low";
  }
  return "unknown";
}

const TrackedModel* Registry::Find(absl::string_view name) const {
  for (const TrackedModel& model : models) {
    if (model.name == name) return &model;
  }
  return nullptr;
}

absl::StatusOr<Registry> ParseRegistry(absl::string_view file, absl::string_view text) {
  Json root;
  try {
    root = Json::parse(text.begin(), text.end());
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", error.what()));
  }
  if (!root.is_object()) return Place(file, "the file").Error("not an object");
  Registry registry;
  for (const auto& [field, value] : root.items()) {
    if (field == "note") {
      if (!value.is_string()) return Place(file, "note").Error("not a string");
      registry.note = value.get<std::string>();
    } else if (field != "models") {
      return Place(file, "the file").Error(absl::StrCat("unknown field '", field, "'"));
    }
  }
  auto models = root.find("models");
  if (models == root.end()) return Place(file, "the file").Error("'models' is missing");
  if (!models->is_array()) return Place(file, "models").Error("not a list");
  std::set<std::string> names;
  for (size_t i = 0; i < models->size(); ++i) {
    Place place(file, absl::StrCat("models[", i, "]"));
    ASSAY_ASSIGN_OR_RETURN(TrackedModel model, ParseModel((*models)[i], place));
    if (!names.insert(model.name).second)
      return place.Error(absl::StrCat("'", model.name, "' is given twice"));
    registry.models.push_back(std::move(model));
  }
  return registry;
}

absl::StatusOr<Registry> LoadRegistry(const std::string& path) {
  ASSAY_ASSIGN_OR_RETURN(std::string text, ReadFile(path, size_t{16} << 20));
  return ParseRegistry(path, text);
}

}  // namespace assay::report
