#pragma once

#include <string>

namespace assay {

// A random version 4 UUID (RFC 9562) in its 36-character form. Thread-safe.
std::string NewUuid();

}  // namespace assay
