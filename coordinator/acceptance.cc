#include "coordinator/acceptance.h"

#include <set>
#include <string>
#include <utility>

#include "common/id.h"

namespace assay::coordinator {

v1::AcceptanceRequest NewSweep(const Content& content, uint32_t repetitions) {
  v1::AcceptanceRequest request;
  request.set_id(NewUuid());
  request.set_repetitions(repetitions);
  std::set<std::string> types;
  for (const auto& [name, entry] : content.catalogue()) {
    v1::ModelRef model;
    model.set_name(name);
    model.set_original_name(entry.original_name());
    model.set_arch_type(entry.arch_type());
    model.set_template_(entry.template_());
    model.set_task(entry.task());
    const JobDigests digests = content.DigestsOf(model);
    if (digests.program_digest.empty() || !types.insert(entry.arch_type()).second) continue;
    v1::Assignment& test = *request.add_test();
    *test.mutable_model() = std::move(model);
    test.mutable_target()->set_device(v1::AUTO);
    test.mutable_target()->set_dtype(v1::FLOAT32);
    test.set_template_digest(digests.template_digest);
    test.set_catalogue_digest(digests.catalogue_digest);
    test.set_program_digest(digests.program_digest);
    test.set_stage(v1::STAGE_TEST);
  }
  return request;
}

}  // namespace assay::coordinator
