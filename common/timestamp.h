// Times as messages carry them.
#pragma once

#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"

namespace assay {

google::protobuf::Timestamp ToTimestamp(absl::Time time);
// An unset one is the Unix epoch.
absl::Time TimeOf(const google::protobuf::Timestamp& time);

}  // namespace assay
