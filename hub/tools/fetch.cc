// hub_fetch ID[@REVISION] [config|tokenizer|everything]: finds or fetches a checkpoint as the environment
// says (HF_HOME, HF_ENDPOINT, …), and prints folder, commit, whether it is verified, and each file. For
// tests.
#include <algorithm>
#include <cstdio>
#include <string>

#include "common/logging.h"
#include "hub/hub.h"

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: hub_fetch ID[@REVISION] [config|tokenizer|everything]\n");
    return 2;
  }
  const std::string wanted = argc == 3 ? argv[2] : "everything";
  const auto need = wanted == "config"      ? assay::hub::Need::kConfig
                    : wanted == "tokenizer" ? assay::hub::Need::kTokenizer
                                            : assay::hub::Need::kEverything;
  const auto fail = [](const absl::Status& status) {
    std::fprintf(stderr, "hub_fetch: %s\n", status.ToString().c_str());
    return 1;
  };
  if (const absl::Status logging = assay::StartLogging("hub_fetch", "info"); !logging.ok())
    return fail(logging);
  const std::string name = argv[1];
  const size_t at = std::min(name.find('@'), name.size());
  auto hub = assay::hub::Hub::Open(assay::hub::HubOptions::FromEnvironment());
  if (!hub.ok()) return fail(hub.status());
  const auto found = (*hub)->Find(name.substr(0, at), name.substr(std::min(at + 1, name.size())), need);
  if (!found.ok()) return fail(found.status());
  std::printf("folder %s\ncommit %s\nverified %s\n", found->folder.c_str(), found->commit.c_str(),
              found->verified ? "yes" : "no");
  for (const auto& file : found->files)
    std::printf("file %s %s\n", file.name.c_str(), file.hub_sha256.c_str());
  return 0;
}
