// Signals that end a process, as something to poll.
#pragma once

namespace assay::host {

// A descriptor that becomes readable at the first SIGTERM or SIGINT. The first call takes the two signals
// over and makes writes to a closed pipe an error instead of a signal. Children set their own dispositions.
int StopSignals();

}  // namespace assay::host
