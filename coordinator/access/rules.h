// Who may call what: the one table. A method that is not in it is refused, and a service that has one is not
// served.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "assay/v1/admin.pb.h"
#include "google/protobuf/descriptor.h"

namespace assay::coordinator {

struct MethodRule {
  absl::string_view service;  // "assay.v1.BatchService"
  absl::string_view method;   // "CancelBatch"
  uint32_t roles;             // a bit for each role that may; kAnyone: nobody needs to say who they are
  // That it changes something, and so is in the audit log whatever its outcome; refusals are there of all
  // methods.
  bool changes;
  // The field that names what is changed: of the request, or with "> " in front, of the response.
  absl::string_view target;

  // "BatchService.CancelBatch"
  std::string name() const;
};

inline constexpr uint32_t kAnyone = ~uint32_t{0};

// The path of a worker's stream. It has no interceptors: gRPC sends each message of a call that has one
// around once more, and most messages of a coordinator are of such streams. What they would do the stream
// does itself.
inline constexpr absl::string_view kWorkerStreamPath = "/assay.v1.WorkerService/Connect";

const std::vector<MethodRule>& MethodRules();

// The rule of a call's path, "/assay.v1.BatchService/CancelBatch"; null: there is none.
const MethodRule* FindRule(absl::string_view path);

bool MayCall(const MethodRule& rule, v1::Role role);

// INTERNAL: a method of these services, by their full names in `pool`, is not in the table.
absl::Status CheckRulesCover(
    const std::vector<std::string>& services,
    const google::protobuf::DescriptorPool& pool = *google::protobuf::DescriptorPool::generated_pool());

// "read", "submit", "work", "admin", "join"; "no role".
std::string RoleName(v1::Role role);
// "submit or admin"
std::string RolesOf(const MethodRule& rule);

}  // namespace assay::coordinator
