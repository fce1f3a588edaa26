// A small template, catalogue entries and assignments, for tests of the worker.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "assay/v1/worker.pb.h"

namespace assay::worker {

inline constexpr absl::string_view kTemplate = R"pb(
  name: "gpt2"
  description: "decoders"
  set_up { device: AUTO dtype: FLOAT32 seed: 0 threads: 1 }
  limits { timeout_ms: 60000 memory_bytes: 2147483648 }
  case {
    name: "test_model_loading"
    weights: REAL
    check {
      name: "weights_bound"
      weights_bound {}
    }
    check {
      name: "golden"
      golden {}
    }
  }
  case {
    name: "test_model_with_mock"
    weights: MOCK
    check {
      name: "golden"
      golden {}
    }
  }
)pb";

inline std::string CatalogueText(const std::string& model, const std::string& deviation = "") {
  return absl::StrCat(
      "name: \"", model,
      "\"\nmodel_class: \"transformers.GPT2LMHeadModel\"\nconfig_class: "
      "\"transformers.GPT2Config\"\ntask: \"text-generation\"\narch_type: "
      "\"decoder_only\"\ntemplate: \"gpt2\"\ncheckpoint: \"org/name\"\ninput_maker: \"text\"\n",
      deviation.empty() ? "" : absl::StrCat("deviation: \"", deviation, "\"\n"));
}

// Without digests.
inline v1::Assignment AssignmentOf(const std::string& model, uint64_t attempt = 1) {
  v1::Assignment assignment;
  assignment.mutable_attempt()->set_job_id("job of " + model);
  assignment.mutable_attempt()->set_attempt(attempt);
  assignment.set_batch_id("batch");
  assignment.mutable_model()->set_name(model);
  assignment.mutable_model()->set_arch_type("decoder_only");
  assignment.mutable_model()->set_template_("gpt2");
  assignment.mutable_model()->set_task("text-generation");
  return assignment;
}

}  // namespace assay::worker
