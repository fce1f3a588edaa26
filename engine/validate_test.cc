#include "engine/validate_test.h"

#include <algorithm>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "engine/validate_check.h"

namespace assay::engine {
namespace {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

bool HasUnknownFields(const google::protobuf::Message& message) {
  const google::protobuf::Reflection* reflection = message.GetReflection();
  if (!reflection->GetUnknownFields(message).empty()) return true;
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!field->is_repeated()) {
      if (HasUnknownFields(reflection->GetMessage(message, field))) return true;
      continue;
    }
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      if (HasUnknownFields(reflection->GetRepeatedMessage(message, field, i))) return true;
    }
  }
  return false;
}

bool HasGoldenCheck(const v1::Case& c) {
  return std::any_of(c.check().begin(), c.check().end(),
                     [](const auto& check) { return check.has_golden(); });
}

absl::Status ValidateCase(const v1::ModelTest& test, const v1::Case& c) {
  if (c.weights() != v1::REAL && c.weights() != v1::MOCK) {
    return Invalid("weights must be REAL or MOCK, not ", c.weights());
  }
  if (c.check_size() == 0) return Invalid("it has no check, so it can prove nothing");
  std::set<std::string> checks;
  for (const v1::Check& check : c.check()) {
    if (!checks.insert(check.name()).second) return Invalid("check '", check.name(), "' stands there twice");
  }
  if (!c.program_digest().empty() && !IsDigest(c.program_digest()))
    return Invalid("program_digest is no digest");
  if (!c.golden_digest().empty() && !IsDigest(c.golden_digest()))
    return Invalid("golden_digest is no digest");
  if (c.weights() == v1::MOCK) {
    if (!c.golden_digest().empty()) return Invalid("the golden of mock weights is the program's own");
    return absl::OkStatus();
  }
  // That numbers are compared with nothing is said, or it is an oversight.
  if (test.has_trained() && !HasGoldenCheck(c) && ReasonForNoGolden(test, c).empty()) {
    return Invalid("it has no golden check, and the test does not say why");
  }
  return absl::OkStatus();
}

}  // namespace

std::string ReasonForNoGolden(const v1::ModelTest& test, const v1::Case& test_case) {
  for (const v1::AbsentCheck& absent : test.absent()) {
    if (absent.case_name() == test_case.name() && absent.check() == "golden") return absent.reason();
  }
  return "";
}

absl::Status ValidateTest(const v1::ModelTest& test) {
  if (HasUnknownFields(test)) return Invalid("the test has fields that this engine does not know");
  if (test.case__size() == 0) return Invalid("the test has no case");
  std::set<std::string> cases;
  bool loads = false;
  for (const v1::Case& c : test.case_()) {
    if (!cases.insert(c.name()).second) return Invalid("case '", c.name(), "' stands there twice");
    if (absl::Status status = ValidateCase(test, c); !status.ok()) {
      return Invalid("case '", c.name(), "': ", status.message());
    }
    loads |= c.weights() == v1::REAL;
  }
  if (!test.has_trained()) return absl::OkStatus();
  if (!loads)
    return Invalid("the test names the checkpoint '", test.trained().id(), "', and no case loads it");
  if (!test.trained().weights_digest().empty() && !IsDigest(test.trained().weights_digest())) {
    return Invalid("trained.weights_digest is no digest");
  }
  return absl::OkStatus();
}

absl::Status ValidateChecks(const v1::Case& test_case, const v1::Manifest& manifest) {
  for (const v1::Check& check : test_case.check()) {
    if (absl::Status status = ValidateCheck(check, manifest); !status.ok()) {
      return Invalid("case '", test_case.name(), "': ", status.message());
    }
  }
  return absl::OkStatus();
}

}  // namespace assay::engine
