// Which Assay this is.
#pragma once

#include <string>

namespace assay {

// "0.1.0+22aa52d0f1c3": the version and the commit that the build was configured at, with "-dirty" where
// tracked files differed from it; without a commit where there was no repository. The same in every binary of
// a build.
const std::string& BuildVersion();

// What --version prints: "assay-worker 0.1.0+22aa52d0f1c3 (Release, g++ 12.2.0)".
std::string VersionLine(const std::string& program);

}  // namespace assay
