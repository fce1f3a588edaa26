#include "common/build_info.h"

// ASSAY_VERSION and ASSAY_BUILD_TYPE are set by CMakeLists.txt for this file alone, ASSAY_COMMIT too.

namespace assay {

const std::string& BuildVersion() {
  static const std::string& version =
      *new std::string(sizeof(ASSAY_COMMIT) > 1 ? ASSAY_VERSION "+" ASSAY_COMMIT : ASSAY_VERSION);
  return version;
}

std::string VersionLine(const std::string& program) {
  return program + " " + BuildVersion() + " (" ASSAY_BUILD_TYPE ", g++ " __VERSION__ ")";
}

}  // namespace assay
