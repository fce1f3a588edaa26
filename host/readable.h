// What a test's process has to read.
#pragma once

#include <string>
#include <vector>

#include "assay/v1/host.pb.h"

namespace assay::host {

// Files and folders for ShowOnly: the test's program and goldens, the checkpoint's folder with those files of
// the Hugging Face cache that it links to (a link to anywhere else is not followed), and what of the system
// LibTorch and the C library read while a test runs.
std::vector<std::string> ReadableFor(const v1::RunTest& request);

}  // namespace assay::host
