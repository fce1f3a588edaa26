// Names, settings, choice of files and local folders: what needs no hub.
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <map>

#include "hub/http.h"
#include "hub/hub.h"
#include "hub/lock.h"
#include "hub/selection.h"
#include "tests/hub/hub_server.h"
#include "tests/matchers.h"

extern char** environ;

namespace assay::hub {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(NameTest, FindChecksNames) {
  TemporaryFolder cache;
  HubOptions options;
  options.cache_dir = cache.path();
  options.offline = true;
  ASSERT_OK_AND_ASSIGN(const auto hub, Hub::Open(options));
  EXPECT_THAT(hub->Find("../x", "main", Need::kConfig), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(hub->Find("a/b", "../x", Need::kConfig), StatusIs(absl::StatusCode::kInvalidArgument));
  FindOptions find_options;
  find_options.gguf_file = "../../x.gguf";
  EXPECT_THAT(hub->Find("a/b", "main", Need::kEverything, find_options),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// As the oldest repositories are named.
TEST(NameTest, ANameWithoutOwnerIsFoundInTheCache) {
  TemporaryFolder cache;
  const std::string commit(40, 'a');
  const fs::path repository = cache.path() / "models--gpt2";
  fs::create_directories(repository / "snapshots" / commit);
  fs::create_directories(repository / "refs");
  std::ofstream(repository / "snapshots" / commit / "config.json") << "{}";
  std::ofstream(repository / "refs" / "main") << commit;
  HubOptions options;
  options.cache_dir = cache.path();
  options.offline = true;
  ASSERT_OK_AND_ASSIGN(const auto hub, Hub::Open(options));
  ASSERT_OK_AND_ASSIGN(const Found found, hub->Find("gpt2", "", Need::kConfig));
  EXPECT_EQ(found.commit, commit);
  EXPECT_EQ(found.folder.filename(), commit);
}

TEST(OpenTest, WhatCannotBeIsSaid) {
  TemporaryFolder cache;
  HubOptions options;
  EXPECT_THAT(Hub::Open(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("cache")));
  options.cache_dir = cache.path();
  for (const char* endpoint : {"ftp://x", "x", "", "file:///etc", "https://user:password@x"}) {
    options.endpoint = endpoint;
    EXPECT_THAT(Hub::Open(options), StatusIs(absl::StatusCode::kInvalidArgument)) << endpoint;
  }
  options.endpoint = "https://hub.example/";
  options.token = "one\r\nX-Other: two";
  EXPECT_THAT(Hub::Open(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("token")));
}

TEST(UrlTest, RedirectsAreResolvedAndOriginsToldApart) {
  ASSERT_OK_AND_ASSIGN(const Url base, ParseUrl("https://Hub.example/a/b?x=1"));
  EXPECT_EQ(base.origin, "https://hub.example:443");
  EXPECT_EQ(ResolveUrl(base, "/c")->text, "https://Hub.example/c");
  EXPECT_EQ(ResolveUrl(base, "//other.example/c")->origin, "https://other.example:443");
  EXPECT_EQ(ResolveUrl(base, "https://hub.example:444/c")->origin, "https://hub.example:444");
  EXPECT_EQ(ResolveUrl(base, "http://hub.example/c")->origin, "http://hub.example:80");
  for (const char* bad : {"file:///etc/passwd", "ftp://x/y", "https://user:pw@hub.example/"}) {
    EXPECT_THAT(ResolveUrl(base, bad), StatusIs(absl::StatusCode::kInvalidArgument)) << bad;
  }
}

// The variables as given and no other, for as long as it lives.
class Environment {
 public:
  explicit Environment(const std::map<std::string, std::string>& variables) : before_(environ) {
    for (const auto& [name, value] : variables) texts_.push_back(name + "=" + value);
    for (std::string& text : texts_) pointers_.push_back(text.data());
    pointers_.push_back(nullptr);
    environ = pointers_.data();
  }
  ~Environment() { environ = before_; }

 private:
  char** before_;
  std::vector<std::string> texts_;
  std::vector<char*> pointers_;
};

HubOptions From(const std::map<std::string, std::string>& variables) {
  const Environment environment(variables);
  return HubOptions::FromEnvironment();
}

TEST(EnvironmentTest, TheCacheIsWherePythonHasIt) {
  EXPECT_EQ(From({{"HOME", "/h"}}).cache_dir, "/h/.cache/huggingface/hub");
  EXPECT_EQ(From({{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}}).cache_dir, "/x/huggingface/hub");
  EXPECT_EQ(From({{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}, {"HF_HOME", "~/hf"}}).cache_dir, "/h/hf/hub");
  EXPECT_EQ(From({{"HF_HOME", "/hf"}, {"HUGGINGFACE_HUB_CACHE", "/old"}}).cache_dir, "/old");
  EXPECT_EQ(
      From({{"HUGGINGFACE_HUB_CACHE", "/old"}, {"HF_HUB_CACHE", "$D/${D}/$NONE"}, {"D", "d"}}).cache_dir,
      "d/d/$NONE");
}

TEST(EnvironmentTest, TheTokenIsFoundWherePythonFindsIt) {
  TemporaryFolder home;
  std::ofstream(home.path() / "token") << "from-file\n";
  const std::string hf_home = home.path().string();
  EXPECT_EQ(From({{"HF_HOME", hf_home}}).token, "from-file");
  EXPECT_EQ(From({{"HF_HOME", hf_home}, {"HF_TOKEN", " set \n"}}).token, "set");
  EXPECT_EQ(From({{"HF_HOME", hf_home}, {"HUGGING_FACE_HUB_TOKEN", "older"}}).token, "older");
  EXPECT_EQ(From({{"HF_HOME", hf_home}, {"HF_TOKEN_PATH", "/nowhere"}}).token, "");
  EXPECT_EQ(From({{"HF_HOME", hf_home}, {"HF_TOKEN", "set"}, {"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}}).token,
            "");
}

TEST(EnvironmentTest, TheRest) {
  const HubOptions options = From({{"HF_ENDPOINT", "https://hub.example/"},
                                   {"HF_HUB_OFFLINE", "yes"},
                                   {"HF_HUB_ETAG_TIMEOUT", "3"},
                                   {"HF_HUB_DOWNLOAD_TIMEOUT", "soon"},
                                   {"SSL_CERT_FILE", "/ca.pem"}});
  EXPECT_EQ(options.endpoint, "https://hub.example");
  EXPECT_TRUE(options.offline);
  EXPECT_EQ(options.metadata_timeout, absl::Seconds(3));
  EXPECT_EQ(options.stall_timeout, absl::Seconds(10));
  EXPECT_EQ(options.ca_bundle, "/ca.pem");
  EXPECT_FALSE(From({}).offline);
  EXPECT_FALSE(From({{"HF_HUB_OFFLINE", "0"}, {"TRANSFORMERS_OFFLINE", "1"}}).offline);
  EXPECT_TRUE(From({{"TRANSFORMERS_OFFLINE", "1"}}).offline);
}

TEST(SelectionTest, TokenizersOfAllFamiliesAreAmongTheSmallFiles) {
  const std::set<std::string> names = {".gitattributes",
                                       "README.md",
                                       "config.json",
                                       "generation_config.json",
                                       "tokenizer.json",
                                       "tokenizer.model",
                                       "tokenizer_config.json",
                                       "vocab.txt",
                                       "vocab.json",
                                       "merges.txt",
                                       "spiece.model",
                                       "sentencepiece.bpe.model",
                                       "source.spm",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "preprocessor_config.json",
                                       "normalizer.json",
                                       "chat_template.jinja",
                                       "1_Pooling/config.json",
                                       "modules.json",
                                       "tokenization_x.py",
                                       "tokenizer.py",
                                       "vocab.pkl",
                                       "model.safetensors",
                                       "pytorch_model.bin",
                                       "tf_model.h5",
                                       "flax_model.msgpack",
                                       "rust_model.ot",
                                       "onnx/config.json",
                                       "original/tokenizer.model",
                                       "training_args.bin",
                                       "openvino.model"};
  EXPECT_THAT(SmallFiles(names, Need::kConfig), ElementsAre("config.json", "generation_config.json"));
  EXPECT_THAT(SmallFiles(names, Need::kTokenizer),
              ::testing::UnorderedElementsAre(
                  "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
                  "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
                  "sentencepiece.bpe.model", "source.spm", "special_tokens_map.json", "added_tokens.json",
                  "preprocessor_config.json", "normalizer.json", "chat_template.jinja",
                  "1_Pooling/config.json", "modules.json"));
}

TEST(SelectionTest, AVocabularyThatIsMissingIsNoticed) {
  EXPECT_TRUE(LooksComplete({"config.json", "tokenizer.json", "tokenizer_config.json"}, {}));
  EXPECT_TRUE(LooksComplete({"config.json", "preprocessor_config.json"}, {}));
  EXPECT_FALSE(LooksComplete({"config.json", "tokenizer_config.json"}, {}));
  EXPECT_FALSE(LooksComplete({"config.json", "vocab.json"}, {}));
  EXPECT_TRUE(LooksComplete({"config.json", "vocab.json"}, {"merges.txt"}));
  EXPECT_FALSE(LooksComplete({"config.json"}, {}));
  EXPECT_TRUE(LooksComplete({"config.json"}, {"tokenizer_config.json", "preprocessor_config.json"}));
}

TEST(LockTest, ExcludesAsFilelockDoes) {
  TemporaryFolder folder;
  const fs::path path = folder.path() / "new" / "x.lock";
  {
    ASSERT_OK_AND_ASSIGN(const FileLock held, FileLock::Take(path, FileLock::kExclusive, {}));
    for (const auto kind : {FileLock::kShared, FileLock::kExclusive}) {
      ASSERT_OK_AND_ASSIGN(const auto second, FileLock::Try(path, kind));
      EXPECT_FALSE(second.has_value());
      int asked = 0;
      EXPECT_THAT(FileLock::Take(path, kind, [&] { return ++asked == 2; }),
                  StatusIs(absl::StatusCode::kCancelled));
    }
    // A lock whose file is gone excludes nobody: who comes then locks the new file.
    fs::remove(path);
    ASSERT_OK_AND_ASSIGN(const auto fresh, FileLock::Try(path, FileLock::kExclusive));
    EXPECT_TRUE(fresh.has_value());
  }
  ASSERT_OK_AND_ASSIGN(const FileLock one, FileLock::Take(path, FileLock::kShared, {}));
  ASSERT_OK_AND_ASSIGN(const auto two, FileLock::Try(path, FileLock::kShared));
  EXPECT_TRUE(two.has_value());
  ASSERT_OK_AND_ASSIGN(const auto exclusive, FileLock::Try(path, FileLock::kExclusive));
  EXPECT_FALSE(exclusive.has_value());
}

class FolderTest : public ::testing::Test {
 protected:
  void Put(const std::string& name, const std::string& content = "x") const {
    fs::create_directories((folder_.path() / name).parent_path());
    std::ofstream(folder_.path() / name) << content;
  }
  TemporaryFolder folder_;
};

TEST_F(FolderTest, ItsFilesAreListed) {
  for (const char* name : {"config.json", "vocab.txt", "model-00001-of-00001.safetensors",
                           "model.safetensors.index.json", "modeling.py", "pytorch_model.bin"}) {
    Put(name);
  }
  ASSERT_OK_AND_ASSIGN(const Found found, FindFolder(folder_.path(), {}));
  std::vector<std::string> names, weights;
  for (const FoundFile& file : found.files) {
    names.push_back(file.name);
    if (file.weights) weights.push_back(file.name);
  }
  EXPECT_THAT(names, ElementsAre("config.json", "model-00001-of-00001.safetensors",
                                 "model.safetensors.index.json", "vocab.txt"));
  EXPECT_THAT(weights, ElementsAre("model-00001-of-00001.safetensors"));
  EXPECT_FALSE(found.verified);
  EXPECT_EQ(found.commit, "");
  EXPECT_EQ(found.root, folder_.path());
}

TEST_F(FolderTest, OnlyBelowTheRoots) {
  TemporaryFolder other;
  Put("m/config.json");
  EXPECT_THAT(FindFolder(folder_.path() / "m", {other.path(), folder_.path()}), IsOk());
  EXPECT_THAT(FindFolder(folder_.path() / "m", {other.path()}),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("below none")));
  // A name that begins alike is not below it.
  EXPECT_THAT(FindFolder(folder_.path() / "m", {folder_.path() / "m2", folder_.path().string() + "/"}),
              IsOk());
  fs::create_directories(folder_.path() / "m2");
  EXPECT_THAT(FindFolder(folder_.path() / "m2", {folder_.path() / "m"}),
              StatusIs(absl::StatusCode::kPermissionDenied));
  // Nor is what a link or ".." makes look so.
  fs::create_directory_symlink(folder_.path() / "m", other.path() / "link");
  EXPECT_THAT(FindFolder(other.path() / "link", {other.path()}),
              StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(FindFolder(folder_.path() / "m" / ".." / "m2", {folder_.path() / "m"}),
              StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(FindFolder("m", {}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(FindFolder(folder_.path() / "none", {}), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(FindFolder(folder_.path() / "m" / "config.json", {}), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(FolderTest, ALinkOutOfItIsRefused) {
  TemporaryFolder outside;
  std::ofstream(outside.path() / "secret") << "x";
  Put("config.json");
  fs::create_symlink(outside.path() / "secret", folder_.path() / "model.safetensors");
  EXPECT_THAT(FindFolder(folder_.path(), {}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("model.safetensors"), HasSubstr("secret"), HasSubstr("refused"))));
  fs::remove(folder_.path() / "model.safetensors");
  fs::create_symlink("nowhere", folder_.path() / "model.safetensors");
  EXPECT_THAT(FindFolder(folder_.path(), {}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("nowhere")));
}

TEST_F(FolderTest, ASnapshotsLinksStayInItsRepository) {
  Put("models--a--b/blobs/x");
  const fs::path snapshot = folder_.path() / "models--a--b/snapshots/0123";
  fs::create_directories(snapshot);
  fs::create_symlink("../../blobs/x", snapshot / "config.json");
  ASSERT_OK_AND_ASSIGN(const Found found, FindFolder(snapshot, {folder_.path()}));
  EXPECT_EQ(found.root, folder_.path() / "models--a--b");
  Put("elsewhere");
  fs::create_symlink("../../../elsewhere", snapshot / "model.safetensors");
  EXPECT_THAT(FindFolder(snapshot, {folder_.path()}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("leads out")));
}

}  // namespace
}  // namespace assay::hub
