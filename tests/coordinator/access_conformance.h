// What every Store must do with workers, cordons, tokens and the audit log, run over each implementation.
#pragma once

#include <string>
#include <vector>

#include "coordinator/store/record_rules.h"
#include "tests/coordinator/store_conformance.h"

namespace assay::coordinator {

using ::testing::IsFalse;
using ::testing::IsTrue;
using ::testing::Pair;

inline TokenRecord TokenOf(const std::string& id, v1::Role role = v1::WORK) {
  TokenRecord token;
  token.info.set_id(id);
  token.info.set_name("ada");
  token.info.set_role(role);
  token.hash = "hash of " + id;
  return token;
}

inline v1::AuditEntry EntryOf(const std::string& what) {
  v1::AuditEntry entry;
  entry.set_what(what);
  entry.mutable_time()->set_seconds(1'700'000'000);
  return entry;
}

TEST_P(StoreConformanceTest, AWorkersRowSaysWhoHoldsItAndUntilWhen) {
  WorkerRecord worker;
  worker.instance = "i";
  for (const std::string name : {"w1", "w2", "w3"}) {
    worker.summary.set_name(name);
    worker.coordinator = name == "w3" ? "c2" : "c1";
    worker.believed_until = now_;
    ASSERT_THAT(Do([&](Store& s) { return s.PutWorker(worker); }), IsOk());
  }
  ASSERT_THAT(Do([&](Store& s) { return s.BelieveWorkers("c1", now_ + kLease); }), IsOk());
  ASSERT_OK_AND_ASSIGN(auto workers, Do([](Store& s) { return s.ListWorkers(); }));
  ASSERT_THAT(workers, SizeIs(3));
  EXPECT_EQ(workers[0].coordinator, "c1");
  EXPECT_EQ(workers[0].believed_until, now_ + kLease);
  EXPECT_EQ(workers[1].believed_until, now_ + kLease);
  EXPECT_EQ(workers[2].coordinator, "c2");
  EXPECT_EQ(workers[2].believed_until, now_);
  EXPECT_EQ(workers[2].summary.name(), "w3");
}

TEST_P(StoreConformanceTest, ACordonOutlivesTheWorkersRow) {
  ASSERT_THAT(Do([](Store& s) { return s.PutCordon("w1", "burns"); }), IsOk());  // never seen
  WorkerRecord worker;
  worker.summary.set_name("w1");
  ASSERT_THAT(Do([&](Store& s) { return s.PutWorker(worker); }), IsOk());
  ASSERT_THAT(Do([](Store& s) { return s.PutCordon("w1", "burned"); }), IsOk());
  EXPECT_THAT(Do([](Store& s) { return s.ListCordons(); }), IsOkAndHolds(ElementsAre(Pair("w1", "burned"))));
  EXPECT_THAT(Do([](Store& s) { return s.RemoveCordon("w1"); }), IsOkAndHolds(IsTrue()));
  EXPECT_THAT(Do([](Store& s) { return s.RemoveCordon("w1"); }), IsOkAndHolds(IsFalse()));
  EXPECT_THAT(Do([](Store& s) { return s.ListCordons(); }), IsOkAndHolds(IsEmpty()));
}

TEST_P(StoreConformanceTest, OrdersStayUntilTheyAreRemovedOrTheirWorkerIsForgotten) {
  WorkerRecord worker;
  worker.summary.set_name("w1");
  ASSERT_THAT(Do([&](Store& s) { return s.PutWorker(worker); }), IsOk());
  WorkerOrder order;
  order.worker = "w1";
  order.wanted.set_instance("i");
  for (const std::string id : {"o2", "o1", "o3"}) {
    order.id = id;
    order.wanted.set_drain(id == "o1");
    ASSERT_THAT(Do([&](Store& s) { return s.AddOrder(order); }), IsOk());
  }
  order.worker = "w2";  // the first of an id stays
  ASSERT_THAT(Do([&](Store& s) { return s.AddOrder(order); }), IsOk());
  order.id = "o4";
  ASSERT_THAT(Do([&](Store& s) { return s.AddOrder(order); }), IsOk());
  ASSERT_THAT(Do([](Store& s) { return s.RemoveOrder("o2"); }), IsOk());
  ASSERT_THAT(Do([](Store& s) { return s.RemoveOrder("o2"); }), IsOk());
  ASSERT_OK_AND_ASSIGN(auto orders, Do([](Store& s) { return s.ListOrders(); }));
  ASSERT_THAT(orders, SizeIs(3));
  EXPECT_EQ(orders[0].id, "o1");
  EXPECT_EQ(orders[0].worker, "w1");
  EXPECT_TRUE(orders[0].wanted.drain());
  EXPECT_EQ(orders[0].wanted.instance(), "i");
  EXPECT_EQ(orders[1].id, "o3");
  EXPECT_EQ(orders[1].worker, "w1");
  ASSERT_THAT(Do([](Store& s) { return s.DropWorker("w1"); }), IsOk());
  ASSERT_OK_AND_ASSIGN(orders, Do([](Store& s) { return s.ListOrders(); }));
  ASSERT_THAT(orders, SizeIs(1));
  EXPECT_EQ(orders[0].id, "o4");
}

TEST_P(StoreConformanceTest, TokensAreFoundByTheHashOfTheirSecret) {
  ASSERT_THAT(Do([](Store& s) { return s.AddToken(TokenOf("t2")); }), IsOk());
  ASSERT_THAT(Do([](Store& s) { return s.AddToken(TokenOf("t1", v1::READ)); }), IsOk());
  ASSERT_OK_AND_ASSIGN(auto found, Do([](Store& s) { return s.FindToken("hash of t1"); }));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->info.id(), "t1");
  EXPECT_EQ(found->info.role(), v1::READ);
  EXPECT_EQ(found->hash, "hash of t1");
  ASSERT_OK_AND_ASSIGN(auto unknown, Do([](Store& s) { return s.FindToken("t1"); }));
  EXPECT_FALSE(unknown.has_value());
  ASSERT_OK_AND_ASSIGN(auto all, Do([](Store& s) { return s.ListTokens(); }));
  ASSERT_THAT(all, SizeIs(2));
  EXPECT_EQ(all[0].info.id(), "t1");
}

TEST_P(StoreConformanceTest, ATokenIsAddedOnce) {
  ASSERT_THAT(Do([](Store& s) { return s.AddToken(TokenOf("t1")); }), IsOk());
  EXPECT_THAT(Do([](Store& s) { return s.AddToken(TokenOf("t1", v1::ADMIN)); }),
              StatusIs(absl::StatusCode::kAlreadyExists));
  TokenRecord same_secret = TokenOf("t1", v1::ADMIN);
  same_secret.info.set_id("t2");
  EXPECT_THAT(Do([&](Store& s) { return s.AddToken(same_secret); }),
              StatusIs(absl::StatusCode::kAlreadyExists));
  ASSERT_OK_AND_ASSIGN(auto found, Do([](Store& s) { return s.FindToken("hash of t1"); }));
  EXPECT_EQ(found->info.role(), v1::WORK);
}

TEST_P(StoreConformanceTest, ARevokedTokenStaysRevoked) {
  ASSERT_THAT(Do([](Store& s) { return s.AddToken(TokenOf("t1")); }), IsOk());
  ASSERT_OK_AND_ASSIGN(v1::TokenInfo first, Do([&](Store& s) { return s.RevokeToken("t1", now_); }));
  EXPECT_EQ(first.revoke_time().seconds(), absl::ToUnixSeconds(now_));
  now_ += absl::Hours(1);
  ASSERT_OK_AND_ASSIGN(v1::TokenInfo again, Do([&](Store& s) { return s.RevokeToken("t1", now_); }));
  EXPECT_EQ(again.revoke_time().seconds(), first.revoke_time().seconds());
  ASSERT_OK_AND_ASSIGN(auto found, Do([](Store& s) { return s.FindToken("hash of t1"); }));
  EXPECT_TRUE(found->info.has_revoke_time());
  EXPECT_THAT(Do([&](Store& s) { return s.RevokeToken("t9", now_); }), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(StoreConformanceTest, ADroppedTokenIsUnknown) {
  ASSERT_THAT(Do([](Store& s) { return s.AddToken(TokenOf("t1")); }), IsOk());
  ASSERT_THAT(Do([](Store& s) { return s.AddToken(TokenOf("t2")); }), IsOk());
  ASSERT_THAT(Do([](Store& s) { return s.DropToken("t1"); }), IsOk());
  ASSERT_THAT(Do([](Store& s) { return s.DropToken("t1"); }), IsOk());
  ASSERT_OK_AND_ASSIGN(auto found, Do([](Store& s) { return s.FindToken("hash of t1"); }));
  EXPECT_FALSE(found.has_value());
  ASSERT_OK_AND_ASSIGN(auto all, Do([](Store& s) { return s.ListTokens(); }));
  ASSERT_THAT(all, SizeIs(1));
  EXPECT_EQ(all[0].info.id(), "t2");
}

TEST_P(StoreConformanceTest, ATokenIsRedeemedOnce) {
  ASSERT_THAT(Do([](Store& s) { return s.AddToken(TokenOf("t1", v1::JOIN)); }), IsOk());
  ASSERT_THAT(store_->Begin(), IsOk());
  ASSERT_THAT(store_->RedeemToken("hash of t1", now_), IsOk());
  store_->Rollback();
  ASSERT_OK_AND_ASSIGN(v1::TokenInfo info, Do([&](Store& s) { return s.RedeemToken("hash of t1", now_); }));
  EXPECT_EQ(info.id(), "t1");
  EXPECT_TRUE(info.has_redeem_time());
  EXPECT_THAT(Do([&](Store& s) { return s.RedeemToken("hash of t1", now_); }),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("redeemed")));
  EXPECT_THAT(Do([&](Store& s) { return s.RedeemToken("hash", now_); }),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(StoreConformanceTest, TheAuditLogIsListedNewestFirstInPages) {
  for (const std::string what : {"a", "b", "c"}) {
    ASSERT_THAT(Do([&](Store& s) { return s.AddAudit(EntryOf(what)); }), IsOk());
  }
  ASSERT_THAT(store_->Begin(), IsOk());
  ASSERT_THAT(store_->AddAudit(EntryOf("never happened")), IsOk());
  store_->Rollback();
  ASSERT_OK_AND_ASSIGN(AuditPage page, Do([](Store& s) { return s.ListAudit(2, 0); }));
  ASSERT_THAT(page.entries, SizeIs(2));
  EXPECT_EQ(page.entries[0].what(), "c");
  EXPECT_EQ(page.entries[1].what(), "b");
  ASSERT_NE(page.next, 0);
  ASSERT_OK_AND_ASSIGN(page, Do([&](Store& s) { return s.ListAudit(2, page.next); }));
  ASSERT_THAT(page.entries, SizeIs(1));
  EXPECT_EQ(page.entries[0].what(), "a");
  EXPECT_EQ(page.next, 0);
  EXPECT_THAT(Do([](Store& s) { return s.ListAudit(2, UINT64_MAX); }), IsOk());
}

}  // namespace assay::coordinator
