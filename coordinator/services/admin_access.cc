// The half of AdminService that is about tokens and the audit log.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/access/token.h"
#include "coordinator/services/admin_service.h"
#include "coordinator/services/grpc_status.h"

namespace assay::coordinator {
namespace {

constexpr uint32_t kDefaultPage = 50;
constexpr uint32_t kMaxPage = 1000;

}  // namespace

grpc::ServerUnaryReactor* AdminService::ListAudit(grpc::CallbackServerContext* context,
                                                  const v1::ListAuditRequest* request,
                                                  v1::ListAuditResponse* response) {
  auto* reactor = context->DefaultReactor();
  uint64_t before = 0;
  if (!request->page_token().empty() && (!absl::SimpleAtoi(request->page_token(), &before) || before == 0)) {
    reactor->Finish(ToGrpc(absl::InvalidArgumentError("page_token was not given here")));
    return reactor;
  }
  const uint32_t size = request->page_size() == 0 ? kDefaultPage : std::min(request->page_size(), kMaxPage);
  rooms_.writer->Ask<AuditPage>([size, before](Store& store) { return store.ListAudit(size, before); },
                                [reactor, response](absl::StatusOr<AuditPage> page) {
                                  if (page.ok()) {
                                    for (v1::AuditEntry& entry : page->entries) {
                                      *response->add_entry() = std::move(entry);
                                    }
                                    if (page->next != 0)
                                      response->set_next_page_token(absl::StrCat(page->next));
                                  }
                                  reactor->Finish(ToGrpc(page.status()));
                                });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::CreateToken(grpc::CallbackServerContext* context,
                                                    const v1::CreateTokenRequest* request,
                                                    v1::CreateTokenResponse* response) {
  auto* reactor = context->DefaultReactor();
  const absl::Time expire = !request->has_expire_time()
                                ? absl::InfinitePast()
                                : absl::FromUnixSeconds(request->expire_time().seconds()) +
                                      absl::Nanoseconds(request->expire_time().nanos());
  absl::StatusOr<IssuedToken> issued =
      IssueToken(request->name(), request->role(), rooms_.clock->Now(), expire);
  if (!issued.ok()) {
    reactor->Finish(ToGrpc(issued.status()));
    return reactor;
  }
  const TokenRecord record = issued->record;
  rooms_.writer->Ask<bool>(
      [record, change = rooms_.access->ChangeOf(*context, "AdminService.CreateToken")](
          Store& store) -> absl::StatusOr<bool> {
        ASSAY_RETURN_IF_ERROR(store.AddToken(record));
        ASSAY_RETURN_IF_ERROR(RecordChange(store, change, record.info.id()));
        return true;
      },
      [reactor, response, issued = *issued](absl::StatusOr<bool> added) {
        if (added.ok()) {
          response->set_token(issued.token);
          *response->mutable_info() = issued.record.info;
        }
        reactor->Finish(ToGrpc(added.status()));
      });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListTokens(grpc::CallbackServerContext* context,
                                                   const v1::ListTokensRequest*,
                                                   v1::ListTokensResponse* response) {
  auto* reactor = context->DefaultReactor();
  using Tokens = std::vector<TokenRecord>;
  rooms_.writer->Ask<Tokens>([](Store& store) { return store.ListTokens(); },
                             [reactor, response](absl::StatusOr<Tokens> tokens) {
                               if (tokens.ok()) {
                                 for (TokenRecord& token : *tokens)
                                   *response->add_token() = std::move(token.info);
                               }
                               reactor->Finish(ToGrpc(tokens.status()));
                             });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::RevokeToken(grpc::CallbackServerContext* context,
                                                    const v1::RevokeTokenRequest* request,
                                                    v1::RevokeTokenResponse* response) {
  auto* reactor = context->DefaultReactor();
  rooms_.writer->Ask<v1::TokenInfo>(
      [id = request->id(), change = rooms_.access->ChangeOf(*context, "AdminService.RevokeToken")](
          Store& store) -> absl::StatusOr<v1::TokenInfo> {
        ASSAY_ASSIGN_OR_RETURN(v1::TokenInfo revoked, store.RevokeToken(id, store.Now()));
        ASSAY_RETURN_IF_ERROR(RecordChange(store, change, id));
        return revoked;
      },
      [this, reactor, response](absl::StatusOr<v1::TokenInfo> info) {
        if (info.ok()) {
          rooms_.access->Forget();
          *response->mutable_token() = *std::move(info);
        }
        reactor->Finish(ToGrpc(info.status()));
      });
  return reactor;
}

}  // namespace assay::coordinator
