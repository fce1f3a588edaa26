// Python's huggingface_hub and Assay use one cache: what either downloads the other finds, and both at once
// download a file once. ASSAY_PYTHON names a Python that has the library; else the exporter's environment has
// it.
#include <stdlib.h>

#include <fstream>
#include <sstream>

#include "hub/hub.h"
#include "tests/hub/hub_server.h"
#include "tests/matchers.h"

namespace assay::hub {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr size_t kBytes = 3'000'000;

std::string Python() {
  const char* chosen = ::getenv("ASSAY_PYTHON");
  return chosen != nullptr ? chosen : "exporter/.venv/bin/python";
}

class PythonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Ran has = Child({Python(), "-c", "import huggingface_hub"}, {}).Wait();
    if (has.exit_code != 0) {
      ASSERT_EQ(::getenv("ASSAY_PYTHON"), nullptr) << Python() << " has no huggingface_hub: " << has.output;
      GTEST_SKIP() << "NOT TESTED: the cache shared with Python's huggingface_hub. There is no " << Python()
                   << " with that library: run exporter/setup, or set ASSAY_PYTHON";
    }
    server_.PutModel("acme/tiny", kBytes);
  }
  std::vector<std::string> Environment() const {
    return {"HF_ENDPOINT=" + server_.endpoint(), "HF_HUB_CACHE=" + server_.cache().string(),
            "HF_HUB_DISABLE_PROGRESS_BARS=1", "HF_HUB_DISABLE_TELEMETRY=1"};
  }
  Ran RunPython(const std::string& code) const { return Child({Python(), "-c", code}, Environment()).Wait(); }
  absl::StatusOr<Found> Find(bool offline, const std::string& revision = "main") const {
    HubOptions options = server_.Options();
    options.offline = offline;
    auto hub = Hub::Open(options);
    if (!hub.ok()) return hub.status();
    return (*hub)->Find("acme/tiny", revision, Need::kEverything);
  }
  static std::string Content(const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }

  HubServer server_;
};

TEST_F(PythonTest, WhatPythonDownloadedIsFoundWithoutNetwork) {
  const Ran python = RunPython("from huggingface_hub import snapshot_download as s; print(s('acme/tiny'))");
  ASSERT_EQ(python.exit_code, 0) << python.output;
  const size_t before = server_.Log("hub").size();
  ASSERT_OK_AND_ASSIGN(const Found offline, Find(true));
  EXPECT_TRUE(offline.verified);
  EXPECT_THAT(python.output, HasSubstr(offline.folder.string()));
  // At a commit not even an online Assay asks.
  ASSERT_OK_AND_ASSIGN(const Found pinned, Find(false, offline.commit));
  EXPECT_TRUE(pinned.verified);
  EXPECT_EQ(server_.Log("hub").size(), before);
}

TEST_F(PythonTest, WhatPythonLeftHalfIsCompleted) {
  const Ran python =
      RunPython("from huggingface_hub import hf_hub_download as d; print(d('acme/tiny', 'config.json'))");
  ASSERT_EQ(python.exit_code, 0) << python.output;
  EXPECT_THAT(Find(true), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no weights")));
  ASSERT_OK_AND_ASSIGN(const Found found, Find(false));
  EXPECT_TRUE(found.verified);
  EXPECT_THAT(server_.Log("hub", "/config.json"), SizeIs(2));  // HEAD and GET, both Python's
}

TEST_F(PythonTest, WhatAssayDownloadedIsFoundByPython) {
  ASSERT_OK_AND_ASSIGN(const Found found, Find(false));
  const size_t before = server_.Log("hub").size();
  const Ran python = RunPython(R"(
import huggingface_hub as h
from huggingface_hub.file_download import _CACHED_NO_EXIST
print(h.hf_hub_download("acme/tiny", "model.safetensors", local_files_only=True))
print(h.snapshot_download("acme/tiny", local_files_only=True))
print(h.hf_hub_download("acme/tiny", "config.json", revision=h.snapshot_download("acme/tiny", local_files_only=True)[-40:]))
assert h.try_to_load_from_cache("acme/tiny", "tokenizer.json").endswith("tokenizer.json")
assert h.try_to_load_from_cache("acme/tiny", "vocab.txt") is _CACHED_NO_EXIST
assert h.try_to_load_from_cache("acme/tiny", "README.md") is None
info = h.scan_cache_dir()
assert not info.warnings, info.warnings
(repo,) = info.repos
(revision,) = repo.revisions
assert repo.repo_id == "acme/tiny" and revision.refs == {"main"} and len(revision.files) == 4, repo
)");
  ASSERT_EQ(python.exit_code, 0) << python.output;
  EXPECT_THAT(python.output, HasSubstr((found.folder / "model.safetensors").string()));
  EXPECT_EQ(server_.Log("hub").size(), before);
}

TEST_F(PythonTest, BothAtOnceDownloadAFileOnce) {
  // The first who asks is held up until all are on their way.
  server_.Misbehave(
      {{"where", "storage"}, {"path", "model.safetensors"}, {"do", "stall"}, {"bytes", 1'000'000}});
  const std::string code =
      "from huggingface_hub import snapshot_download as s; print('go', flush=True);"
      "print(s('acme/tiny', allow_patterns=['*.json', '*.safetensors']))";
  Child python({Python(), "-c", code}, Environment());
  Child assay({HubFetch(), "acme/tiny"}, Environment());
  Child other({HubFetch(), "acme/tiny"}, Environment());
  EXPECT_EQ(python.ReadLine(), "go");
  while (server_.Log("hub", "/api/models").size() < 3) {
  }
  server_.Release();
  const Ran ran = python.Wait();
  EXPECT_EQ(ran.exit_code, 0) << ran.output;
  for (Child* child : {&assay, &other}) {
    const Ran fetched = child->Wait();
    EXPECT_EQ(fetched.exit_code, 0) << fetched.output;
    EXPECT_THAT(fetched.output, HasSubstr("verified yes"));
  }
  int contents = 0;
  for (const auto& row : server_.Log("storage", "model.safetensors")) contents += row["method"] == "GET";
  EXPECT_EQ(contents, 1);
  ASSERT_OK_AND_ASSIGN(const Found found, Find(true));
  EXPECT_EQ(Content(found.folder / "model.safetensors"), HubServer::Random(kBytes, 1));
  EXPECT_EQ(RunPython("import huggingface_hub as h; assert not h.scan_cache_dir().warnings").exit_code, 0);
}

TEST_F(PythonTest, WhatIsEvictedLeavesACacheThatPythonReads) {
  server_.PutModel("acme/other", kBytes, 2);
  HubOptions options = server_.Options();
  options.disk_budget_bytes = kBytes + 100'000;
  ASSERT_OK_AND_ASSIGN(const auto hub, Hub::Open(options));
  ASSERT_THAT(hub->Find("acme/tiny", "", Need::kEverything), IsOk());
  ASSERT_THAT(hub->Find("acme/other", "", Need::kEverything), IsOk());
  const Ran python = RunPython(R"(
import huggingface_hub as h
info = h.scan_cache_dir()
assert not info.warnings, info.warnings
print([(r.repo_id, len(r.revisions)) for r in sorted(info.repos, key=lambda r: r.repo_id)])
)");
  ASSERT_EQ(python.exit_code, 0) << python.output;
  EXPECT_THAT(python.output, HasSubstr("[('acme/other', 1), ('acme/tiny', 0)]"));
}

}  // namespace
}  // namespace assay::hub
