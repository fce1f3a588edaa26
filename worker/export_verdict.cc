#include "worker/export_verdict.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "worker/artifact.h"

namespace assay::worker {
namespace {

using Json = nlohmann::json;

std::string TextOf(const Json& json, const char* field) {
  const auto at = json.find(field);
  return at != json.end() && at->is_string() ? at->get<std::string>() : "";
}

// What the catalogue's program was exported from; empty where there is none that says.
std::string CatalogueModelType(const ExportJob& job) {
  if (job.program.empty()) return "";
  const auto program = ReadProgramFile(job.program);
  if (!program.ok()) return "";
  if (!program->manifest().model_type().empty()) return program->manifest().model_type();
  const Json config = Json::parse(program->manifest().config_json(), nullptr, /*allow_exceptions=*/false);
  return config.is_object() ? TextOf(config, "model_type") : "";
}

}  // namespace

Verdict Infrastructure(absl::string_view what, const absl::Status& status) {
  return {v1::INFRASTRUCTURE_ERROR, absl::StrCat(what, ": ", status.ToString()), "", 0};
}

Verdict OfFinding(const ExportJob& job) {
  const absl::Status& status = job.found.status();
  const std::string message(status.message());
  const bool is_default = job.assignment.default_checkpoint();
  // The hub's words (hub/selection.cc); a repository may well have a pickle in its name.
  const bool pickles =
      absl::IsFailedPrecondition(status) && absl::StrContains(message, "the weights are pickles alone");
  if (is_default && (absl::IsNotFound(status) || pickles)) {
    return {v1::SKIPPED, message, kNoWeights, 0};
  }
  if (is_default && absl::IsUnavailable(status) && job.offline) {
    return {v1::SKIPPED, absl::StrCat("not on this node, and the hub is offline by configuration: ", message),
            kNoWeights, 0};
  }
  if (absl::IsNotFound(status)) {
    return {v1::INFRASTRUCTURE_ERROR,
            absl::StrCat("no such checkpoint ", job.assignment.checkpoint().id(), ": ", message), "", 0};
  }
  if (pickles) return {v1::UNSUPPORTED, message, "", 0};
  if (absl::IsFailedPrecondition(status)) return {v1::FAILED, message, "", 0};
  return Infrastructure(absl::StrCat("checkpoint ", job.assignment.checkpoint().id(), " cannot be had"),
                        status);
}

Verdict OfModelType(const ExportJob& job, absl::string_view whose, const std::string& type) {
  const std::string wanted = CatalogueModelType(job);
  if (wanted.empty() || wanted == type) return {};
  return {v1::FAILED, absl::StrCat(whose, type, ", model ", job.assignment.model().name(), " is ", wanted),
          "", 0};
}

Verdict OfConfig(const ExportJob& job, const std::filesystem::path& file, const std::string& text) {
  const Json config = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return {v1::FAILED, absl::StrCat(file.string(), ": no JSON object"), "", 0};
  }
  const std::string type = TextOf(config, "model_type");
  // Where the catalogue names the model, its class is the library's own and the checkpoint's code is not
  // wanted.
  if (config.contains("auto_map") && job.catalogue.empty()) {
    return {v1::UNSUPPORTED,
            absl::StrCat("config.json wants code of the checkpoint's own to be run (auto_map, "
                         "trust_remote_code), which is refused",
                         type.empty() ? "" : absl::StrCat("; its model_type is ", type)),
            "", 0};
  }
  if (type.empty()) {
    return {v1::UNSUPPORTED, "config.json has no model_type: nothing says which architecture it is", "", 0};
  }
  return OfModelType(job, "config.json is of another class: its model_type is ", type);
}

}  // namespace assay::worker
