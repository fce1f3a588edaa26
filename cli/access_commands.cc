#include "cli/access_commands.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "assay/v1/admin.grpc.pb.h"
#include "cli/output.h"
#include "common/file.h"
#include "coordinator/report/words.h"

namespace assay::cli {
namespace {

constexpr size_t kPage = 1000;

const std::map<std::string, v1::Role>& Roles() {
  static const auto& roles = *new std::map<std::string, v1::Role>{{"read", v1::READ},
                                                                  {"submit", v1::SUBMIT},
                                                                  {"work", v1::WORK},
                                                                  {"admin", v1::ADMIN},
                                                                  {"join", v1::JOIN}};
  return roles;
}

std::string RoleText(v1::Role role) {
  return role == v1::ROLE_UNSPECIFIED ? "-" : absl::AsciiStrToLower(v1::Role_Name(role));
}

// One try: making a token twice would leave one that nobody knows.
template <typename Request, typename Response>
absl::Status Ask(const Connection& connection,
                 grpc::Status (v1::AdminService::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                Response*),
                 const Request& request, Response* response) {
  auto stub = v1::AdminService::NewStub(connection.channel());
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + connection.options().deadline));
  return ToAbsl((stub.get()->*method)(&context, request, response), connection.options().address);
}

ExitCode Written(const absl::Status& status) { return status.ok() ? kExitOk : Complain(status); }

ExitCode WrittenJson(const google::protobuf::Message& message) {
  absl::StatusOr<std::string> json = ToJson(message);
  return json.ok() ? Written(Write("", *json)) : Complain(json.status());
}

std::string StateOf(const v1::TokenInfo& token) {
  if (token.has_revoke_time()) return absl::StrCat("revoked ", report::TimeText(token.revoke_time()));
  if (token.has_redeem_time()) return absl::StrCat("redeemed ", report::TimeText(token.redeem_time()));
  if (token.has_expire_time() && token.expire_time().seconds() <= absl::ToUnixSeconds(absl::Now())) {
    return "expired";
  }
  return "good";
}

}  // namespace

ExitCode CreateTokenCommand(const ConnectionOptions& options, const NewToken& token) {
  Connection connection(options);
  v1::CreateTokenRequest request;
  request.set_name(token.name);
  request.set_role(Roles().at(token.role));
  if (token.days > 0) {
    request.mutable_expire_time()->set_seconds(
        absl::ToUnixSeconds(absl::Now() + token.days * absl::Hours(24)));
  }
  v1::CreateTokenResponse response;
  const absl::Status status = Ask(connection, &v1::AdminService::Stub::CreateToken, request, &response);
  if (!status.ok()) return Complain(status);
  const std::string line = absl::StrCat(response.token(), "\n");
  const absl::Status written = token.output.empty() ? Write("", line) : WriteSecretFile(token.output, line);
  if (!written.ok()) return Complain(written);
  std::fprintf(stderr, "assay: %s (%s), role %s, is good until %s; it is not told again\n",
               response.info().id().c_str(), response.info().name().c_str(),
               RoleText(response.info().role()).c_str(),
               report::TimeText(response.info().expire_time()).c_str());
  return kExitOk;
}

ExitCode TokensCommand(const ConnectionOptions& options, bool json) {
  Connection connection(options);
  v1::ListTokensResponse tokens;
  const absl::Status status =
      Ask(connection, &v1::AdminService::Stub::ListTokens, v1::ListTokensRequest(), &tokens);
  if (!status.ok()) return Complain(status);
  if (json) return WrittenJson(tokens);
  std::vector<std::vector<std::string>> rows = {
      {"ID", "NAME", "ROLE", "CREATED (UTC)", "ENDS (UTC)", "STATE"}};
  for (const v1::TokenInfo& token : tokens.token()) {
    rows.push_back({token.id(), token.name(), RoleText(token.role()), report::TimeText(token.create_time()),
                    token.has_expire_time() ? report::TimeText(token.expire_time()) : "never",
                    StateOf(token)});
  }
  return Written(Write("", Table(rows)));
}

ExitCode RevokeTokenCommand(const ConnectionOptions& options, const std::string& id) {
  Connection connection(options);
  v1::RevokeTokenRequest request;
  request.set_id(id);
  v1::RevokeTokenResponse response;
  const absl::Status status = Ask(connection, &v1::AdminService::Stub::RevokeToken, request, &response);
  if (!status.ok()) return Complain(status);
  return Written(
      Write("", absl::StrCat(response.token().id(), " (", response.token().name(), ") was revoked at ",
                             report::TimeText(response.token().revoke_time()), " UTC\n")));
}

ExitCode AuditCommand(const ConnectionOptions& options, size_t limit, bool json) {
  Connection connection(options);
  v1::ListAuditResponse all;
  v1::ListAuditRequest request;
  do {
    const size_t left = limit == 0 ? kPage : limit - static_cast<size_t>(all.entry_size());
    request.set_page_size(static_cast<uint32_t>(std::min(left, kPage)));
    v1::ListAuditResponse page;
    const absl::Status status = Ask(connection, &v1::AdminService::Stub::ListAudit, request, &page);
    if (!status.ok()) return Complain(status);
    for (v1::AuditEntry& entry : *page.mutable_entry()) *all.add_entry() = std::move(entry);
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty() && (limit == 0 || static_cast<size_t>(all.entry_size()) < limit));
  if (json) return WrittenJson(all);
  std::vector<std::vector<std::string>> rows = {
      {"TIME (UTC)", "WHO", "ROLE", "FROM", "WHAT", "TARGET", "OUTCOME", "DETAIL"}};
  for (const v1::AuditEntry& entry : all.entry()) {
    rows.push_back({report::TimeText(entry.time()), entry.who(), RoleText(entry.role()),
                    entry.from().empty() ? "-" : entry.from(), entry.what(),
                    entry.target().empty() ? "-" : entry.target(), entry.outcome(), entry.detail()});
  }
  return Written(Write("", Table(rows)));
}

}  // namespace assay::cli
