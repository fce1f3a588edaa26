#include "coordinator/access/rules.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace assay::coordinator {
namespace {

constexpr uint32_t Bit(v1::Role role) { return uint32_t{1} << role; }
constexpr uint32_t kAdmin = Bit(v1::ADMIN);
constexpr uint32_t kSubmit = Bit(v1::SUBMIT) | kAdmin;
constexpr uint32_t kRead = Bit(v1::READ) | kSubmit;
constexpr uint32_t kWork = Bit(v1::WORK) | kAdmin;
// Whoever has a role at all. KEDA knows certificates but no tokens, and a certificate's role is to work.
constexpr uint32_t kAnyRole = kRead | kWork;

constexpr absl::string_view kBatch = "assay.v1.BatchService", kBlob = "assay.v1.BlobService",
                            kWorker = "assay.v1.WorkerService", kAdminService = "assay.v1.AdminService",
                            kJoin = "assay.v1.JoinService", kHealth = "grpc.health.v1.Health",
                            kReflection = "grpc.reflection.v1alpha.ServerReflection",
                            kScaler = "externalscaler.ExternalScaler";

constexpr v1::Role kRoles[] = {v1::READ, v1::SUBMIT, v1::WORK, v1::ADMIN};

}  // namespace

const std::vector<MethodRule>& MethodRules() {
  static const auto& rules = *new std::vector<MethodRule>{
      {kBatch, "SubmitBatch", kSubmit, true, "> batch.batch_id"},
      {kBatch, "WatchBatch", kRead, false, "batch_id"},
      {kBatch, "GetBatch", kRead, false, "batch_id"},
      {kBatch, "ListBatches", kRead, false, ""},
      {kBatch, "CancelBatch", kSubmit, true, "batch_id"},
      {kBatch, "GetReport", kRead, false, "batch_id"},
      {kBatch, "GetLogs", kRead, false, "job_id"},
      {kBatch, "ExplainJob", kRead, false, "job_id"},
      {kBatch, "ListWorkers", kRead, false, ""},
      // What a worker reports is told by its results, each of which names it.
      {kWorker, "Connect", kWork, false, ""},
      {kBlob, "Upload", kWork, false, ""},
      {kBlob, "Download", kWork, false, ""},
      {kBlob, "Lookup", kWork, false, ""},
      {kAdminService, "CordonWorker", kAdmin, true, "worker"},
      {kAdminService, "UncordonWorker", kAdmin, true, "worker"},
      {kAdminService, "DrainWorker", kAdmin, true, "worker"},
      {kAdminService, "AcceptWorker", kAdmin, true, "worker"},
      {kAdminService, "ListAudit", kAdmin, false, ""},
      {kAdminService, "CreateToken", kAdmin, true, "> info.id"},
      {kAdminService, "ListTokens", kAdmin, false, ""},
      {kAdminService, "RevokeToken", kAdmin, true, "id"},
      // The join token is in the request, or a worker's present certificate is renewed: the service looks at
      // both.
      {kJoin, "Join", kAnyone, true, "worker"},
      // Load balancers and kubelets ask it, and it tells nothing but that a coordinator is there.
      {kHealth, "Check", kAnyone, false, ""},
      {kHealth, "Watch", kAnyone, false, ""},
      {kReflection, "ServerReflectionInfo", kAnyRole, false, ""},
      {kScaler, "IsActive", kAnyRole, false, ""},
      {kScaler, "StreamIsActive", kAnyRole, false, ""},
      {kScaler, "GetMetricSpec", kAnyRole, false, ""},
      {kScaler, "GetMetrics", kAnyRole, false, ""},
  };
  return rules;
}

std::string MethodRule::name() const {
  return absl::StrCat(service.substr(service.rfind('.') + 1), ".", method);
}

const MethodRule* FindRule(absl::string_view path) {
  static const auto& by_path = *[] {
    auto* map = new std::map<std::string, const MethodRule*, std::less<>>;
    for (const MethodRule& rule : MethodRules()) {
      map->emplace(absl::StrCat("/", rule.service, "/", rule.method), &rule);
    }
    return map;
  }();
  const auto found = by_path.find(path);
  return found == by_path.end() ? nullptr : found->second;
}

bool MayCall(const MethodRule& rule, v1::Role role) {
  if (rule.roles == kAnyone) return true;
  for (const v1::Role known : kRoles) {
    if (role == known) return (rule.roles & Bit(role)) != 0;
  }
  return false;
}

absl::Status CheckRulesCover(const std::vector<std::string>& services,
                             const google::protobuf::DescriptorPool& pool) {
  for (const std::string& name : services) {
    const auto* service = pool.FindServiceByName(name);
    if (service == nullptr) return absl::InternalError(absl::StrCat("service ", name, " has no descriptor"));
    for (int i = 0; i < service->method_count(); ++i) {
      const std::string path = absl::StrCat("/", name, "/", service->method(i)->name());
      if (FindRule(path) != nullptr) continue;
      return absl::InternalError(
          absl::StrCat(path, " is not in the table of who may call what (coordinator/access/rules.cc)"));
    }
  }
  return absl::OkStatus();
}

std::string RoleName(v1::Role role) {
  switch (role) {
    case v1::READ:
      return "read";
    case v1::SUBMIT:
      return "submit";
    case v1::WORK:
      return "work";
    case v1::ADMIN:
      return "admin";
    case v1::JOIN:
      return "join";
    default:
      return "no role";
  }
}

std::string RolesOf(const MethodRule& rule) {
  std::vector<std::string> names;
  for (const v1::Role role : kRoles) {
    if (MayCall(rule, role)) names.push_back(RoleName(role));
  }
  return absl::StrJoin(names, " or ");
}

}  // namespace assay::coordinator
