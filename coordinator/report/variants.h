// How much of the models' variants is really run (docs/variants.md): none is left out in silence.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "assay/v1/batch.pb.h"

namespace assay::report {

// One variant, by models.
struct VariantCount {
  std::string name;  // of the check: "sdpa", "kv_cache", "generate", "dynamic_shapes"
  std::set<std::string> passed;
  std::set<std::string> failed;                       // neither passed nor skipped
  std::map<std::string, std::string> partial;         // of those that passed: what of it is missing
  std::map<std::string, std::string> not_applicable;  // and why
  std::map<std::string, std::string> missing;         // could not be exported, and why
  // Skipped for another reason: not comparable at the dtype. A model counts once, by the first that holds of:
  // failed, passed, skipped, missing, not applicable.
  std::map<std::string, std::string> skipped;

  // The models whose architecture has the variant.
  size_t possible() const { return passed.size() + failed.size() + skipped.size() + missing.size(); }
};

// Of all jobs' results; empty where none ran such a check. In the order of the names above. Pure.
std::vector<VariantCount> CountVariants(const std::vector<const v1::Job*>& jobs);

// "sdpa: 3 of 4 passed; 1 not applicable; missing: a", without causes.
std::string VariantText(const VariantCount& count);

}  // namespace assay::report
