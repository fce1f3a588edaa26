// `assay doctor`: looks at everything that Assay needs here and says what is wrong and what to do. Changes
// nothing.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cli/connection.h"
#include "common/exit_code.h"

namespace assay::cli {

struct DoctorOptions {
  ConnectionOptions connection;
  bool coordinator_named = false;  // the user said which: then it has to answer
  // Empty ones are looked for in their usual places, or not looked at where they have none.
  std::string content_dir;
  std::string data_dir;   // of a coordinator here
  std::string database;   // its postgres://…
  std::string state_dir;  // of a worker here
  std::string host_binary;
  std::string exporter;
  std::string tls_cert, tls_key, tls_ca, token_file;
  bool json = false;
};

enum class Health { kOk, kWarn, kFail };

// What one check saw.
struct Finding {
  std::string check;  // "clock.coordinator"
  Health health = Health::kOk;
  std::string saw;
  std::string remedy;  // what to do; empty where there is nothing
};
using Findings = std::vector<Finding>;

// Runs every check that applies, prints what they saw, and gives kExitInfrastructure where one failed.
ExitCode DoctorCommand(const DoctorOptions& options);

// The checks, by what they look at. For tests too.
void CheckClient(const DoctorOptions& options, Findings& findings);
void CheckCoordinator(const DoctorOptions& options, Findings& findings);  // the one that is asked
void CheckCoordinatorHere(const DoctorOptions& options, Findings& findings);
void CheckWorkerHere(const DoctorOptions& options, Findings& findings);
void CheckGpus(const DoctorOptions& options, Findings& findings);
void CheckTls(const DoctorOptions& options, absl::Time now, Findings& findings);
// One that has been read, in PEM. `what` for a reader: the file, or who showed it.
void CheckCertificate(const std::string& check, const std::string& what, const std::string& pem,
                      absl::Time now, Findings& findings);
// Those of connected workers.
void CheckWorkerCertificates(const v1::ListWorkersResponse& workers, absl::Time now, Findings& findings);
void CheckClock(Findings& findings);
void CheckCaches(const DoctorOptions& options, Findings& findings);

// A folder that is to be written to, with so much space at least.
void CheckFolder(const std::string& check, const std::string& folder, uint64_t wanted_bytes,
                 Findings& findings);

}  // namespace assay::cli
