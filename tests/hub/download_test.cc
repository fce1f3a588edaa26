// Downloads from a hub that misbehaves. Each test's first words name the fault.
#include <signal.h>

#include <atomic>
#include <fstream>
#include <sstream>
#include <thread>

#include "hub/hub.h"
#include "tests/hub/hub_server.h"
#include "tests/matchers.h"

namespace assay::hub {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr size_t kBytes = 3'000'000;

std::string Content(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::vector<std::string> Names(const Found& found) {
  std::vector<std::string> names;
  for (const FoundFile& file : found.files) names.push_back(file.name);
  return names;
}

class DownloadTest : public ::testing::Test {
 protected:
  DownloadTest() : server_(Server()) {
    server_.Reset();
    server_.PutModel("acme/tiny", kBytes);
  }
  // One for all tests: starting Python takes longer than most of them.
  static HubServer& Server() {
    static HubServer* server = new HubServer;
    return *server;
  }
  static void TearDownTestSuite() { delete &Server(); }

  absl::StatusOr<Found> Find(const HubOptions& options, const std::string& id = "acme/tiny",
                             const std::string& revision = "main", Need need = Need::kEverything,
                             const FindOptions& find_options = {}) {
    auto hub = Hub::Open(options);
    if (!hub.ok()) return hub.status();
    return (*hub)->Find(id, revision, need, find_options);
  }
  // The model is whole, whatever the way.
  void ExpectWhole(const absl::StatusOr<Found>& found) {
    ASSERT_THAT(found, IsOk());
    EXPECT_TRUE(found->verified);
    EXPECT_EQ(Content(found->folder / "model.safetensors"), HubServer::Random(kBytes, 1));
    EXPECT_THAT(Leftovers(), IsEmpty());
  }
  std::vector<std::string> Leftovers() const {
    std::vector<std::string> left;
    for (const auto& entry : fs::recursive_directory_iterator(server_.cache())) {
      if (entry.path().extension() == ".incomplete") left.push_back(entry.path().filename());
    }
    return left;
  }

  HubServer& server_;
};

TEST_F(DownloadTest, OnlyWhatATestNeedsComes) {
  ASSERT_OK_AND_ASSIGN(const Found found, Find(server_.Options()));
  EXPECT_THAT(Names(found),
              ElementsAre("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"));
  ExpectWhole(found);
  EXPECT_THAT(server_.Log("hub", "README"), IsEmpty());
  EXPECT_THAT(server_.Log("hub", ".py"), IsEmpty());
  EXPECT_THAT(server_.Log("hub", ".bin"), IsEmpty());
  EXPECT_EQ(Content(server_.cache() / "models--acme--tiny/refs/main"), found.commit);
  EXPECT_EQ(found.folder, server_.cache() / "models--acme--tiny/snapshots" / found.commit);
  EXPECT_EQ(found.files[1].hub_sha256.size(), 64u);
  EXPECT_TRUE(found.files[1].weights);
}

TEST_F(DownloadTest, LessIsFetchedWhereLessIsNeeded) {
  ASSERT_OK_AND_ASSIGN(const Found config, Find(server_.Options(), "acme/tiny", "main", Need::kConfig));
  EXPECT_THAT(Names(config), ElementsAre("config.json"));
  EXPECT_FALSE(config.verified);
  ASSERT_OK_AND_ASSIGN(const Found tokenizer, Find(server_.Options(), "acme/tiny", "main", Need::kTokenizer));
  EXPECT_THAT(Names(tokenizer), ElementsAre("config.json", "tokenizer.json", "tokenizer_config.json"));
  EXPECT_THAT(server_.Log("storage"), IsEmpty());
  EXPECT_THAT(server_.Log("hub", "/config.json"), SizeIs(1));  // not twice
}

TEST_F(DownloadTest, ANameWithoutOwnerIsFetchedFromWhereTheHubSends) {
  ExpectWhole(Find(server_.Options(), "tiny"));
  EXPECT_TRUE(fs::exists(server_.cache() / "models--tiny" / "refs" / "main"));
}

TEST_F(DownloadTest, WhatIsThereAtACommitCostsNoNetwork) {
  ASSERT_OK_AND_ASSIGN(const Found first, Find(server_.Options()));
  const size_t before = server_.Log("hub").size();
  ExpectWhole(Find(server_.Options(), "acme/tiny", first.commit));
  EXPECT_EQ(server_.Log("hub").size(), before);
  // A branch may have moved: one question, no download.
  ExpectWhole(Find(server_.Options()));
  EXPECT_EQ(server_.Log("hub").size(), before + 1);
}

TEST_F(DownloadTest, TheTokenGoesToTheHubAndNowhereElse) {
  HubOptions options = server_.Options();
  options.token = "secret";
  ExpectWhole(Find(options));
  for (const auto& row : server_.Log("hub", "tiny")) EXPECT_EQ(row["auth"], "Bearer secret") << row;
  ASSERT_THAT(server_.Log("storage"), Not(IsEmpty()));
  for (const auto& row : server_.Log("storage")) EXPECT_EQ(row["auth"], "") << row;
}

TEST_F(DownloadTest, ARedirectOfTheListItselfDoesNotCarryTheToken) {
  HubOptions options = server_.Options();
  options.token = "secret";
  server_.Misbehave({{"path", "/api/models"},
                     {"do", "redirect"},
                     {"location", server_.storage() + "/acme/tiny/config.json"}});
  server_.Misbehave(
      {{"path", "/api/models"}, {"do", "redirect"}, {"times", 99}, {"location", "//127.0.0.1:1/x"}});
  EXPECT_THAT(Find(options), StatusIs(absl::StatusCode::kUnavailable));
  ASSERT_THAT(server_.Log("storage", "config.json"), SizeIs(1));
  EXPECT_EQ(server_.Log("storage", "config.json")[0]["auth"], "");
}

TEST_F(DownloadTest, RedirectsWithoutEndEnd) {
  server_.Misbehave(
      {{"path", "/api/models"}, {"do", "redirect"}, {"times", 999}, {"location", "/api/models/acme/tiny"}});
  EXPECT_THAT(Find(server_.Options()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("redirects without end")));
}

TEST_F(DownloadTest, ARedirectWithinTheHubIsFollowed) {
  server_.Misbehave({{"path", "/api/models/acme/old"},
                     {"do", "redirect"},
                     {"location", "/api/models/acme/tiny/revision/main?blobs=true"}});
  server_.Misbehave({{"path", "/acme/old/resolve/"},
                     {"do", "redirect"},
                     {"location", "/acme/tiny/resolve/main/config.json"}});
  ASSERT_OK_AND_ASSIGN(const Found found, Find(server_.Options(), "acme/old", "main", Need::kConfig));
  EXPECT_EQ(found.folder.parent_path().parent_path().filename(), "models--acme--old");
}

TEST_F(DownloadTest, ACutIsResumedWhereItHappened) {
  server_.Misbehave(
      {{"where", "storage"}, {"path", "model.safetensors"}, {"do", "cut"}, {"bytes", 1'000'000}});
  ExpectWhole(Find(server_.Options()));
  const auto log = server_.Log("storage", "model.safetensors");
  ASSERT_THAT(log, SizeIs(2));
  EXPECT_EQ(log[1]["range"], "bytes=1000000-");
  EXPECT_EQ(log[1]["status"], 206);
}

TEST_F(DownloadTest, AStallIsNotWaitedOut) {
  server_.Misbehave({{"where", "storage"}, {"path", "model.safetensors"}, {"do", "stall"}, {"bytes", 1000}});
  HubOptions options = server_.Options();
  options.stall_timeout = absl::Seconds(1);
  ExpectWhole(Find(options));
  EXPECT_EQ(server_.Log("storage", "model.safetensors").at(1)["range"], "bytes=1000-");
}

TEST_F(DownloadTest, AServerWithoutRangesBeginsAnew) {
  server_.Misbehave(
      {{"where", "storage"}, {"path", "model.safetensors"}, {"do", "cut"}, {"bytes", 1'000'000}});
  server_.Misbehave({{"where", "storage"}, {"path", "model.safetensors"}, {"do", "no_range"}});
  ExpectWhole(Find(server_.Options()));
  EXPECT_EQ(server_.Log("storage", "model.safetensors").at(1)["status"], 200);
}

TEST_F(DownloadTest, CutsThatNeverEndAreReported) {
  server_.Misbehave(
      {{"where", "storage"}, {"path", "model.safetensors"}, {"do", "cut"}, {"bytes", 0}, {"times", 999}});
  EXPECT_THAT(Find(server_.Options()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("model.safetensors")));
  EXPECT_THAT(server_.Log("storage", "model.safetensors"), SizeIs(6));  // once and five retries
}

TEST_F(DownloadTest, AWrongLengthOnceIsFetchedAnew) {
  server_.Misbehave({{"where", "storage"}, {"path", "model.safetensors"}, {"do", "length"}, {"by", 10}});
  ExpectWhole(Find(server_.Options()));
}

TEST_F(DownloadTest, AWrongLengthIsNamed) {
  for (const int by : {10, -10}) {
    server_.Reset();
    server_.PutModel("acme/tiny", kBytes);
    server_.Misbehave(
        {{"where", "storage"}, {"path", "model.safetensors"}, {"do", "length"}, {"by", by}, {"times", 9}});
    EXPECT_THAT(Find(server_.Options()),
                StatusIs(absl::StatusCode::kDataLoss,
                         AllOf(HasSubstr("model.safetensors"), HasSubstr("3000000 bytes"))));
  }
}

TEST_F(DownloadTest, WrongBytesOnceAreFetchedAnew) {
  server_.Misbehave({{"where", "storage"}, {"path", "model.safetensors"}, {"do", "flip"}});
  ExpectWhole(Find(server_.Options()));
}

TEST_F(DownloadTest, WrongBytesAreNamedAndNotKept) {
  server_.Misbehave({{"where", "storage"}, {"path", "model.safetensors"}, {"do", "flip"}, {"times", 9}});
  EXPECT_THAT(Find(server_.Options()),
              StatusIs(absl::StatusCode::kDataLoss,
                       AllOf(HasSubstr("model.safetensors"), HasSubstr("the hub says"))));
  EXPECT_THAT(Leftovers(), IsEmpty());
  HubOptions offline = server_.Options();
  offline.offline = true;
  EXPECT_THAT(Find(offline), Not(IsOk()));
}

TEST_F(DownloadTest, WrongBytesOfASmallFileAreNoticedToo) {
  server_.Misbehave({{"path", "/config.json"}, {"do", "flip"}, {"times", 9}});
  EXPECT_THAT(Find(server_.Options()), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("config.json")));
}

TEST_F(DownloadTest, ASpoiltBeginningFromAnEarlierTryIsThrownAway) {
  server_.Misbehave({{"where", "storage"},
                     {"path", "model.safetensors"},
                     {"do", "cut"},
                     {"bytes", 1'000'000},
                     {"times", 99}});
  HubOptions options = server_.Options();
  options.retries = 0;
  EXPECT_THAT(Find(options), StatusIs(absl::StatusCode::kUnavailable));
  ASSERT_THAT(Leftovers(), SizeIs(1));
  const fs::path incomplete = server_.cache() / "models--acme--tiny/blobs" / Leftovers()[0];
  std::fstream(incomplete, std::ios::in | std::ios::out | std::ios::binary) << "spoilt";

  HubServer well;
  well.PutModel("acme/tiny", kBytes);
  HubOptions again = well.Options();
  again.cache_dir = server_.cache();
  ExpectWhole(Find(again));
  EXPECT_THAT(well.Log("storage", "model.safetensors"), SizeIs(2));  // the rest, then all
}

TEST_F(DownloadTest, TooManyRequestsAreHeeded) {
  server_.Misbehave(
      {{"path", "/api/models"}, {"do", "status"}, {"status", 429}, {"headers", {{"Retry-After", "7"}}}});
  HubOptions options = server_.Options();
  absl::Duration slept;
  options.sleep = [&](absl::Duration time) { slept += time; };
  options.parallel = 1;
  ExpectWhole(Find(options));
  EXPECT_GE(slept, absl::Seconds(7));
}

TEST_F(DownloadTest, AWaitBeyondReasonIsReportedAtOnce) {
  server_.Misbehave(
      {{"path", "/api/models"}, {"do", "status"}, {"status", 429}, {"headers", {{"Retry-After", "86400"}}}});
  HubOptions options = server_.Options();
  absl::Duration slept;
  options.sleep = [&](absl::Duration time) { slept += time; };
  EXPECT_THAT(Find(options),
              StatusIs(absl::StatusCode::kUnavailable, AllOf(HasSubstr("429"), HasSubstr("24h"))));
  EXPECT_EQ(slept, absl::ZeroDuration());
}

TEST_F(DownloadTest, ServerErrorsAreTriedAgainAndThenReported) {
  server_.Misbehave({{"path", "/api/models"}, {"do", "status"}, {"status", 503}, {"times", 2}});
  server_.Misbehave({{"path", "/config.json"}, {"do", "status"}, {"status", 500}, {"times", 2}});
  server_.Misbehave({{"where", "storage"}, {"do", "status"}, {"status", 502}, {"times", 2}});
  ExpectWhole(Find(server_.Options()));

  HubServer down;
  down.PutModel("acme/tiny", kBytes);
  down.Misbehave({{"path", "/api/models"}, {"do", "status"}, {"status", 500}, {"times", 999}});
  HubOptions options = down.Options();
  std::vector<absl::Duration> waits;
  options.sleep = [&](absl::Duration time) { waits.push_back(time); };
  EXPECT_THAT(Find(options),
              StatusIs(absl::StatusCode::kUnavailable, AllOf(HasSubstr("500"), HasSubstr("6 tries"))));
  ASSERT_THAT(waits, SizeIs(5));
  EXPECT_GE(waits[4], absl::Seconds(4));  // doubled four times, halved by the jitter at most
  EXPECT_LE(waits[4], absl::Seconds(8));
}

TEST_F(DownloadTest, AnAddressThatRanOutIsAskedForAgain) {
  server_.Misbehave({{"where", "storage"}, {"do", "status"}, {"status", 403}});
  ExpectWhole(Find(server_.Options()));
}

TEST_F(DownloadTest, AGatedRepositorySaysHowToGetIn) {
  server_.Misbehave({{"path", "acme/tiny"}, {"do", "gate"}, {"token", "let-me-in"}, {"times", 999}});
  EXPECT_THAT(Find(server_.Options()),
              StatusIs(absl::StatusCode::kPermissionDenied,
                       AllOf(HasSubstr("licence"), HasSubstr("HF_TOKEN"), HasSubstr("restricted"))));
  HubOptions options = server_.Options();
  options.token = "let-me-in";
  ExpectWhole(Find(options));
}

TEST_F(DownloadTest, ATokenThatIsNotTakenIsNoMissingRepository) {
  server_.Misbehave({{"path", "acme/tiny"}, {"do", "status"}, {"status", 401}});
  HubOptions options = server_.Options();
  options.token = "old";
  EXPECT_THAT(Find(options),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("does not take the token")));
}

TEST_F(DownloadTest, WhatTheHubDoesNotHaveIsNotFound) {
  EXPECT_THAT(Find(server_.Options(), "acme/none"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no such repository")));
  EXPECT_THAT(Find(server_.Options(), "acme/tiny", "v9"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no such revision")));
  EXPECT_THAT(Find(server_.Options(), "acme/tiny", std::string(40, 'a')),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(DownloadTest, SomethingElseThanAHubIsNoHub) {
  server_.Misbehave({{"path", "/api/models"}, {"do", "status"}, {"status", 200}, {"times", 999}});
  EXPECT_THAT(Find(server_.Options()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("does not answer as a hub")));
}

TEST_F(DownloadTest, WhatTheListDoesNotSayEachFileSays) {
  server_.Misbehave({{"path", "/api/models"}, {"do", "bare"}});
  ExpectWhole(Find(server_.Options()));
  EXPECT_EQ(server_.Log("hub", "/model.safetensors").at(0)["method"], "HEAD");
  EXPECT_THAT(server_.Log("storage"), SizeIs(1));
}

TEST_F(DownloadTest, AFileWithoutHashOrOfAnotherCommitIsRefused) {
  const auto with = [&](const char* name, const std::string& value) {
    server_.Reset();
    server_.PutModel("acme/tiny", kBytes);
    server_.Misbehave({{"path", "/api/models"}, {"do", "bare"}});
    server_.Misbehave(
        {{"path", "/config.json"}, {"do", "headers"}, {"headers", {{name, value}}}, {"times", 9}});
    return Find(server_.Options());
  };
  EXPECT_THAT(
      with("X-Repo-Commit", std::string(40, 'a')),
      StatusIs(absl::StatusCode::kUnavailable, AllOf(HasSubstr("config.json"), HasSubstr("another commit"))));
  EXPECT_THAT(with("ETag", "\"v1\""), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no hash")));
  EXPECT_THAT(with("ETag", "W/\"" + std::string(40, 'b') + "\""), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(DownloadTest, AHubThatCannotBeReachedIsLeftAloneForAWhile) {
  FakeClock clock;
  HubOptions options = server_.Options();
  options.endpoint = "http://127.0.0.1:1";  // nobody listens
  options.clock = &clock;
  ASSERT_OK_AND_ASSIGN(const auto hub, Hub::Open(options));
  EXPECT_THAT(hub->Find("acme/tiny", "", Need::kConfig),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("2 tries")));
  EXPECT_THAT(hub->Find("acme/other", "", Need::kConfig),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("a moment ago")));
  clock.Advance(absl::Minutes(1));
  EXPECT_THAT(hub->Find("acme/other", "", Need::kConfig),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("2 tries")));
}

TEST_F(DownloadTest, WithoutTheHubABranchIsWhatTheCacheRemembers) {
  ASSERT_OK_AND_ASSIGN(const Found first, Find(server_.Options()));
  HubOptions unreachable = server_.Options();
  unreachable.endpoint = "http://127.0.0.1:1";
  HubOptions offline = server_.Options();
  offline.offline = true;
  const size_t before = server_.Log("hub").size();
  for (const HubOptions& options : {unreachable, offline}) {
    ASSERT_OK_AND_ASSIGN(const Found found, Find(options));
    EXPECT_EQ(found.commit, first.commit);
    EXPECT_TRUE(found.verified);
    EXPECT_THAT(Find(options, "acme/tiny", "dev"),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("not in the cache")));
  }
  EXPECT_THAT(Find(offline, "acme/none"),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("HF_HUB_OFFLINE")));
  EXPECT_EQ(server_.Log("hub").size(), before);
}

TEST_F(DownloadTest, ANewCommitIsSeenAndTheOldOneStays) {
  ASSERT_OK_AND_ASSIGN(const Found first, Find(server_.Options()));
  server_.Put("acme/tiny", "config.json", R"({"model_type": "gpt2"})");
  ASSERT_OK_AND_ASSIGN(const Found second, Find(server_.Options()));
  EXPECT_NE(second.commit, first.commit);
  EXPECT_THAT(Content(second.folder / "config.json"), HasSubstr("gpt2"));
  EXPECT_THAT(Content(first.folder / "config.json"), HasSubstr("bert"));
  EXPECT_THAT(server_.Log("storage"), SizeIs(1));  // the weights are the same blob
}

TEST_F(DownloadTest, ASpoiltBlobIsFetchedAnewOrNamed) {
  ASSERT_OK_AND_ASSIGN(const Found first, Find(server_.Options()));
  const fs::path blob = fs::canonical(first.folder / "model.safetensors");
  std::fstream(blob, std::ios::in | std::ios::out | std::ios::binary) << "spoilt";
  HubOptions offline = server_.Options();
  offline.offline = true;
  for (const std::string& revision : {std::string("main"), first.commit}) {
    EXPECT_THAT(
        Find(offline, "acme/tiny", revision),
        StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr("model.safetensors"), HasSubstr("spoilt"))));
  }
  ExpectWhole(Find(server_.Options(), "acme/tiny", first.commit));
}

// Readers prefer model.safetensors to the shards that were verified.
TEST_F(DownloadTest, AFileThatItsCommitDoesNotHaveIsRefused) {
  server_.Put("acme/big", "config.json", "{}");
  server_.Put("acme/big", "model-00001-of-00001.safetensors", "one");
  server_.Put("acme/big", "model.safetensors.index.json",
              R"({"weight_map": {"a": "model-00001-of-00001.safetensors"}})");
  ASSERT_OK_AND_ASSIGN(const Found first, Find(server_.Options(), "acme/big"));
  EXPECT_TRUE(first.verified);
  std::ofstream(first.folder / "notes.md") << "read by nobody";
  EXPECT_THAT(Find(server_.Options(), "acme/big", first.commit), IsOk());
  for (const char* name : {"model.safetensors", "other.gguf", "tokenizer.json"}) {
    std::ofstream(first.folder / name) << "planted";
    HubOptions offline = server_.Options();
    offline.offline = true;
    for (const HubOptions& options : {server_.Options(), offline}) {
      EXPECT_THAT(Find(options, "acme/big", first.commit),
                  StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr(name), HasSubstr("no such file"))));
    }
    fs::remove(first.folder / name);
  }
}

// A cache as Python makes it, without Assay's note of what the hub said.
TEST_F(DownloadTest, AConfigurationThatNobodyVouchesForLeavesWeightsUnverified) {
  ASSERT_OK_AND_ASSIGN(const Found first, Find(server_.Options()));
  EXPECT_TRUE(first.verified);
  HubOptions offline = server_.Options();
  offline.offline = true;
  fs::remove_all(offline.cache_dir / ".locks" / "assay");
  ASSERT_OK_AND_ASSIGN(const Found python, Find(offline, "acme/tiny", first.commit));
  EXPECT_TRUE(python.verified);
  fs::remove(first.folder / "config.json");
  std::ofstream(first.folder / "config.json") << R"({"model_type": "bert", "num_attention_heads": 2})";
  ASSERT_OK_AND_ASSIGN(const Found changed, Find(offline, "acme/tiny", first.commit));
  EXPECT_FALSE(changed.verified);
}

TEST_F(DownloadTest, ALinkOutOfTheRepositoryIsRefused) {
  ASSERT_OK_AND_ASSIGN(const Found first, Find(server_.Options()));
  TemporaryFolder outside;
  std::ofstream(outside.path() / "secret") << "x";
  fs::create_symlink(outside.path() / "secret", first.folder / "added_tokens.json");
  for (const std::string& revision : {std::string("main"), first.commit}) {
    EXPECT_THAT(Find(server_.Options(), "acme/tiny", revision),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr("added_tokens.json"), HasSubstr("secret"), HasSubstr("refused"))));
  }
  fs::remove(first.folder / "added_tokens.json");
  fs::create_directory_symlink(outside.path(), first.folder / "1_Pooling");
  EXPECT_THAT(Find(server_.Options()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("1_Pooling")));
}

TEST_F(DownloadTest, PicklesAloneAreRefusedUnlessAllowed) {
  server_.Put("acme/pickle", "config.json", "{}");
  server_.Put("acme/pickle", "pytorch_model.bin", "a pickle");
  EXPECT_THAT(Find(server_.Options(), "acme/pickle"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("run code"))));
  EXPECT_THAT(server_.Log("hub", "/resolve/"), IsEmpty());
  HubOptions options = server_.Options();
  options.allow_pickle = true;
  ASSERT_OK_AND_ASSIGN(const Found found, Find(options, "acme/pickle"));
  EXPECT_THAT(Names(found), ElementsAre("config.json", "pytorch_model.bin"));
}

TEST_F(DownloadTest, ShardsAreThoseOfTheIndex) {
  server_.Put("acme/big", "config.json", "{}");
  server_.Put("acme/big", "model-00001-of-00002.safetensors", "one");
  server_.Put("acme/big", "model-00002-of-00002.safetensors", "two");
  server_.Put("acme/big", "consolidated.safetensors", "all");
  server_.Put(
      "acme/big", "model.safetensors.index.json",
      R"({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})");
  ASSERT_OK_AND_ASSIGN(const Found found, Find(server_.Options(), "acme/big"));
  EXPECT_THAT(Names(found), ElementsAre("config.json", "model-00001-of-00002.safetensors",
                                        "model-00002-of-00002.safetensors", "model.safetensors.index.json"));
  EXPECT_TRUE(found.verified);
  ASSERT_OK_AND_ASSIGN(const Found again, Find(server_.Options(), "acme/big", found.commit));
  EXPECT_EQ(Names(again), Names(found));
  EXPECT_TRUE(again.verified);

  server_.Put("acme/lie", "config.json", "{}");
  server_.Put("acme/lie", "model.safetensors.index.json",
              R"({"weight_map": {"a": "model-00001-of-00001.safetensors"}})");
  EXPECT_THAT(Find(server_.Options(), "acme/lie"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("model-00001-of-00001.safetensors"), HasSubstr("not there"))));
  server_.Put("acme/way", "config.json", "{}");
  server_.Put("acme/way", "model.safetensors.index.json",
              R"({"weight_map": {"a": "../../../x.safetensors"}})");
  EXPECT_THAT(Find(server_.Options(), "acme/way"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no name of a file")));
}

TEST_F(DownloadTest, OfManyQuantisationsOneIsFetched) {
  for (const char* name : {"m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-Q2_K.gguf"})
    server_.Put("acme/gguf", name, name);
  ASSERT_OK_AND_ASSIGN(const Found found, Find(server_.Options(), "acme/gguf"));
  EXPECT_THAT(Names(found), ElementsAre("m-Q8_0.gguf"));
  FindOptions asked;
  asked.gguf_file = "m-Q4_K_M.gguf";
  ASSERT_OK_AND_ASSIGN(const Found other,
                       Find(server_.Options(), "acme/gguf", "main", Need::kEverything, asked));
  EXPECT_THAT(Names(other), ElementsAre("m-Q4_K_M.gguf"));
  asked.gguf_file = "none.gguf";
  EXPECT_THAT(Find(server_.Options(), "acme/gguf", "main", Need::kEverything, asked),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none.gguf")));
}

TEST_F(DownloadTest, AFileBeyondTheLimitIsRefusedBeforeItIsFetched) {
  HubOptions options = server_.Options();
  options.max_weight_file_bytes = kBytes - 1;
  EXPECT_THAT(Find(options),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("model.safetensors has 3000000")));
  EXPECT_THAT(server_.Log("storage"), IsEmpty());
}

TEST_F(DownloadTest, AConfigOrWeightsThatAreMissingAreNamed) {
  server_.Put("acme/bare", "model.safetensors", "x");
  EXPECT_THAT(Find(server_.Options(), "acme/bare"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("config.json")));
  server_.Put("acme/none", "config.json", "{}");
  EXPECT_THAT(Find(server_.Options(), "acme/none"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no weights")));
}

TEST_F(DownloadTest, ManyWhoWantTheSameGetOneDownload) {
  ASSERT_OK_AND_ASSIGN(const auto hub, Hub::Open(server_.Options()));
  ASSERT_OK_AND_ASSIGN(const auto other, Hub::Open(server_.Options()));  // as another process has it
  // Held back until all are on their way.
  server_.Misbehave({{"where", "storage"}, {"path", "model.safetensors"}, {"do", "stall"}, {"bytes", 0}});
  std::atomic<int> begun = 0;
  std::vector<absl::StatusOr<Found>> found(16, absl::UnknownError(""));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < found.size(); ++i) {
    threads.emplace_back([&, i] {
      ++begun;
      found[i] = (i % 2 ? hub : other)->Find("acme/tiny", "main", Need::kEverything);
    });
  }
  while (begun < 16) std::this_thread::yield();
  server_.Release();
  for (std::thread& thread : threads) thread.join();
  for (const auto& one : found) ExpectWhole(one);
  EXPECT_THAT(server_.Log("storage", "model.safetensors"), SizeIs(1));
  EXPECT_THAT(server_.Log("hub", "/config.json"), SizeIs(1));
}

TEST_F(DownloadTest, ADownloadIsCancelled) {
  server_.Misbehave(
      {{"where", "storage"}, {"path", "model.safetensors"}, {"do", "stall"}, {"bytes", 1'000'000}});
  FindOptions find_options;
  std::atomic<bool> arrived = false;
  find_options.cancelled = [&] {
    for (const auto& entry :
         fs::directory_iterator(server_.cache() / "models--acme--tiny/blobs", fs::directory_options::none)) {
      std::error_code error;
      if (entry.path().extension() == ".incomplete" && fs::file_size(entry.path(), error) == 1'000'000)
        arrived = true;
    }
    return arrived.load();
  };
  fs::create_directories(server_.cache() / "models--acme--tiny/blobs");
  EXPECT_THAT(Find(server_.Options(), "acme/tiny", "main", Need::kEverything, find_options),
              StatusIs(absl::StatusCode::kCancelled));
  // What had come by then is not fetched again.
  ExpectWhole(Find(server_.Options()));
  EXPECT_EQ(server_.Log("storage", "model.safetensors").at(1)["range"], "bytes=1000000-");
}

TEST_F(DownloadTest, Kill9LeavesNothingHalfAndTheNextOneGoesOn) {
  server_.Misbehave(
      {{"where", "storage"}, {"path", "model.safetensors"}, {"do", "stall"}, {"bytes", 1'000'000}});
  {
    Child fetch({HubFetch(), "acme/tiny"},
                {"HF_ENDPOINT=" + server_.endpoint(), "HF_HUB_CACHE=" + server_.cache().string()});
    const auto arrived = [&] {
      std::error_code error;
      for (fs::directory_iterator entry(server_.cache() / "models--acme--tiny/blobs", error), end;
           !error && entry != end; entry.increment(error)) {
        if (entry->path().extension() == ".incomplete" && entry->file_size(error) == 1'000'000) return true;
      }
      return false;
    };
    while (!arrived()) std::this_thread::yield();
    fetch.Kill(SIGKILL);
    EXPECT_EQ(fetch.Wait().exit_code, 128 + SIGKILL);
  }
  HubOptions offline = server_.Options();
  offline.offline = true;
  EXPECT_THAT(Find(offline), StatusIs(absl::StatusCode::kUnavailable));
  ExpectWhole(Find(server_.Options()));
  EXPECT_EQ(server_.Log("storage", "model.safetensors").at(1)["range"], "bytes=1000000-");
}

TEST(TlsTest, ACertificateThatNobodyVouchesForIsRefused) {
  TemporaryFolder folder;
  const fs::path certificate = folder.path() / "cert.pem", key = folder.path() / "key.pem";
  const Ran made = Child({"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                          "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key.string(),
                          "-out", certificate.string()},
                         {})
                       .Wait();
  ASSERT_EQ(made.exit_code, 0) << made.output;
  HubServer server({certificate, key});
  server.PutModel("acme/tiny", 1000);
  HubOptions options = server.Options();
  {
    ASSERT_OK_AND_ASSIGN(const auto hub, Hub::Open(options));
    EXPECT_THAT(hub->Find("acme/tiny", "", Need::kConfig),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("certificate")));
  }
  options.ca_bundle = certificate.string();
  ASSERT_OK_AND_ASSIGN(const auto hub, Hub::Open(options));
  EXPECT_THAT(hub->Find("acme/tiny", "", Need::kConfig), IsOk());
  // Content from a plain-text server would undo it.
  EXPECT_THAT(hub->Find("acme/tiny", "", Need::kEverything),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("https")));
}

}  // namespace
}  // namespace assay::hub
