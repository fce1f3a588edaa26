// The exporter, the only Python in a worker's path: runs it in a sandbox, within bounds of time and memory,
// and believes nothing of its answer that can be checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "assay/v1/result.pb.h"

namespace assay::worker {

struct ExporterOptions {
  std::filesystem::path folder;          // with assay_exporter/ and .venv/; empty: no exporter
  std::filesystem::path samples;         // pictures and speech; default: folder/../models/samples
  std::filesystem::path sandbox_binary;  // assay-sandbox; default: beside the test host
  uint32_t slots = 1;                    // exports at once
  bool allow_pickle = false;             // pickled weights may be converted, in the sandbox
  uint64_t memory_bytes = 0;  // resident, of one export; 0: three quarters of this machine's memory
  absl::Duration timeout = absl::Minutes(30);  // of one export
};

// What an exporter is: two exporters of one identity make the same of the same input.
struct ExporterIdentity {
  std::string code;          // digest of its own code
  std::string transformers;  // versions
  std::string torch;
  std::string Text() const;  // "assay-exporter 0123456789ab, transformers 4.57.6, torch 2.13.0"
};

// request.json; see docs/checkpoints.md.
struct ExportRequest {
  std::filesystem::path folder;  // of the checkpoint
  std::filesystem::path root;    // what links of `folder` lead into, to be seen by the exporter; no field
  std::string id;
  std::string commit;
  std::string model_class;  // empty: the exporter decides
  std::string task;
  std::string template_name;
  std::filesystem::path entry;      // CheckpointEntry's file; empty: none
  std::filesystem::path catalogue;  // CatalogueEntry's file; empty: none
  std::string weights_digest;       // empty: not known
  std::filesystem::path program;    // made already; empty: to be made
  bool want_golden = false;
  bool allow_pickle = false;
};

// How a run of the exporter ended, with result.json where there is one. Files lie in the folder given to Run,
// and exist.
struct ExportAnswer {
  // PASSED, FAILED, UNSUPPORTED, OUT_OF_MEMORY as the exporter says; TIMED_OUT, OUT_OF_MEMORY, CRASHED,
  // CANCELLED, INFRASTRUCTURE_ERROR where it did not get that far.
  v1::Outcome outcome = v1::OUTCOME_UNSPECIFIED;
  std::string message;
  int signal = 0;  // CRASHED
  std::string model_class;
  std::string model_type;
  std::filesystem::path program;  // empty: none
  std::filesystem::path golden;   // likewise
  std::string no_golden;
  std::filesystem::path weights;  // converted; likewise
  uint64_t memory_bytes = 0;
  double program_seconds = 0;
  double golden_seconds = 0;
};

// Thread-safe.
class Exporter {
 public:
  // Asks the exporter who it is.
  //   FAILED_PRECONDITION  it does not answer, or the sandbox does not hold; says how to mend it.
  static absl::StatusOr<std::unique_ptr<Exporter>> Start(ExporterOptions options);
  virtual ~Exporter() = default;

  virtual const ExporterIdentity& identity() const = 0;
  virtual const ExporterOptions& options() const = 0;
  // Runs it with `scratch`, an empty folder, as the only place where it may write. `log` gets what it prints,
  // as it comes; `cancelled` is asked often, and true ends the run. Blocks; one process of its own for each
  // call.
  virtual ExportAnswer Run(const ExportRequest& request, const std::filesystem::path& scratch,
                           const std::function<void(absl::string_view)>& log,
                           const std::function<bool()>& cancelled) = 0;
};

}  // namespace assay::worker
