// Which files of a repository a test needs. Pure functions of names: a hub's list and a folder's are judged
// alike. Files of Python code, of other frameworks and in pickle form are never among them, unless the last
// are asked for.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hub/hub.h"

namespace assay::hub {

// Config, tokenizer, processor and weight index; not the weights. Ordered.
std::vector<std::string> SmallFiles(const std::set<std::string>& names, Need need);

// The weight index that decides which shards there are; empty: none, or none is needed.
std::string WeightIndex(const std::set<std::string>& names, const FindOptions& find_options,
                        bool allow_pickle);

// The weight files, ordered: model.safetensors, else the shards that the index (`index`, its text) names,
// else whatever safetensors there are, else one GGUF file, else (allow_pickle) pytorch_model*.bin.
// FAILED_PRECONDITION: none of these, pickles alone, or an index that is none or names a file that is not
// there; NOT_FOUND: no gguf_file of this name.
absl::StatusOr<std::vector<std::string>> WeightFiles(const std::set<std::string>& names,
                                                     const std::string& index,
                                                     const FindOptions& find_options, bool allow_pickle);

// True where `names`, of a folder that somebody else filled, look complete as to tokenizer and processor.
// What a repository does not have cannot be told from what was not downloaded; `known_absent` are those noted
// as not existing.
bool LooksComplete(const std::set<std::string>& names, const std::set<std::string>& known_absent);

// Files that readers ask for whether they exist or not.
const std::vector<std::string>& WellKnownFiles();

}  // namespace assay::hub
