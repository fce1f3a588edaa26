// A small template, entry and job that belong together, for tests to start from.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "assay/v1/catalogue.pb.h"
#include "assay/v1/template.pb.h"
#include "generator/catalogue.h"
#include "generator/generate.h"
#include "generator/templates.h"
#include "generator/verify.h"
#include "tests/matchers.h"

namespace assay::generator {

inline constexpr absl::string_view kBase = R"pb(
  name: "base"
  abstract: true
  description: "root"
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
      name: "finite"
      finite {}
    }
  }
  case {
    name: "test_model_with_mock"
    weights: MOCK
    check {
      name: "golden"
      golden {}
    }
    check {
      name: "finite"
      finite {}
    }
    check {
      name: "batch_invariance"
      batch_invariance { row: 1 }
    }
  }
)pb";

inline constexpr absl::string_view kGpt2 = R"pb(
  name: "gpt2"
  base: "base"
  description: "decoders"
  case {
    name: "test_model_with_mock"
    check {
      name: "causality"
      causality { input: "input_ids" output: "logits" position: -2 }
    }
  }
)pb";

inline constexpr absl::string_view kCommandR = R"pb(
  name: "command_r"
  original_name: "command-r"
  model_class: "transformers.CohereForCausalLM"
  config_class: "transformers.CohereConfig"
  task: "text-generation"
  arch_type: "decoder_only"
  template: "gpt2"
  checkpoint: "CohereForAI/c4ai-command-r-v01"
  input_maker: "text"
)pb";

// Parses `files` ({"base", text}, …) as templates and resolves `name`.
inline absl::StatusOr<v1::Template> Resolve(const std::map<std::string, std::string>& files,
                                            absl::string_view name) {
  std::map<std::string, v1::Template> parsed;
  for (const auto& [stem, text] : files) {
    absl::StatusOr<v1::Template> one = ParseTemplate(stem + ".textproto", text);
    if (!one.ok()) return one.status();
    parsed[stem] = *one;
  }
  return ResolveTemplate(parsed, name);
}

inline v1::Template SampleTemplate() {
  return Resolve({{"base", std::string(kBase)}, {"gpt2", std::string(kGpt2)}}, "gpt2").value();
}

inline v1::CatalogueEntry SampleEntry() {
  return ParseCatalogueEntry("command_r.textproto", kCommandR).value();
}

inline JobSpec SampleJob() {
  JobSpec job;
  job.model.set_name("command_r");
  job.model.set_original_name("command-r");
  job.model.set_arch_type("decoder_only");
  job.model.set_template_("gpt2");
  job.model.set_task("text-generation");
  job.template_digest = std::string(64, 'a');
  job.catalogue_digest = std::string(64, 'b');
  job.program_digest = std::string(64, 'c');
  return job;
}

// VerifyTest's errors as people read them.
inline std::vector<std::string> VerifyErrors(absl::string_view file, absl::string_view text) {
  std::vector<std::string> errors;
  for (const v1::FileError& error : VerifyTest(file, text)) errors.push_back(FormatFileError(error));
  return errors;
}

}  // namespace assay::generator
