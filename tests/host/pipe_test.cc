#include "host/pipe.h"

#include <signal.h>
#include <unistd.h>

#include "tests/matchers.h"

namespace assay::host {
namespace {

TEST(Pipe, WritingToAClosedPipeIsUnavailable) {
  signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  EXPECT_THAT(WriteAll(ends[1], "text"), StatusIs(absl::StatusCode::kUnavailable));
  close(ends[1]);
}

}  // namespace
}  // namespace assay::host
