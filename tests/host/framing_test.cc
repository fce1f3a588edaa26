#include "host/framing.h"

#include <signal.h>
#include <unistd.h>

#include <string>

#include "assay/v1/host.pb.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "tests/matchers.h"

namespace assay::host {
namespace {

v1::HostEvent LogEvent(size_t bytes) {
  v1::HostEvent event;
  event.set_id("a");
  event.mutable_log()->set_text(std::string(bytes, 'x'));
  return event;
}

TEST(Framing, MessagesComeBackWholeFromPiecesOfAnySize) {
  std::string stream;
  const size_t sizes[] = {0, 1, 100, 127, 128, 20'000, 3'000'000};
  for (size_t size : sizes) stream += Frame(LogEvent(size));
  for (size_t piece : {size_t{1}, size_t{7}, size_t{4096}, stream.size()}) {
    FrameReader reader;
    std::vector<size_t> found;
    for (size_t at = 0; at < stream.size(); at += piece) {
      reader.Feed(absl::string_view(stream).substr(at, piece));
      for (;;) {
        ASSERT_OK_AND_ASSIGN(std::optional<std::string> message, reader.Next());
        if (!message) break;
        v1::HostEvent event;
        ASSERT_TRUE(event.ParseFromString(*message));
        found.push_back(event.log().text().size());
      }
    }
    EXPECT_THAT(found, ::testing::ElementsAreArray(sizes));
    EXPECT_TRUE(reader.AtBoundary());
  }
}

TEST(Framing, IsTheFormThatProtobufItselfReads) {
  std::string stream = Frame(LogEvent(300));
  google::protobuf::io::ArrayInputStream input(stream.data(), static_cast<int>(stream.size()));
  v1::HostEvent event;
  bool clean_end = false;
  ASSERT_TRUE(google::protobuf::util::ParseDelimitedFromZeroCopyStream(&event, &input, &clean_end));
  EXPECT_EQ(event.log().text().size(), 300u);
}

TEST(Framing, HalfAMessageIsNoBoundary) {
  FrameReader reader;
  std::string stream = Frame(LogEvent(300));
  reader.Feed(absl::string_view(stream).substr(0, 10));
  ASSERT_OK_AND_ASSIGN(std::optional<std::string> message, reader.Next());
  EXPECT_FALSE(message.has_value());
  EXPECT_FALSE(reader.AtBoundary());
}

TEST(Framing, ALengthThatCannotBeIsRefusedAndNotAllocated) {
  for (const std::string& bytes : {std::string("\xff\xff\xff\xff\x0f"), std::string(11, '\xff')}) {
    FrameReader reader;
    reader.Feed(bytes);
    EXPECT_THAT(reader.Next(), StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("broken")));
    EXPECT_THAT(reader.Next(), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST(Framing, WritingToAClosedPipeIsUnavailable) {
  signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  EXPECT_THAT(WriteAll(ends[1], "text"), StatusIs(absl::StatusCode::kUnavailable));
  close(ends[1]);
}

}  // namespace
}  // namespace assay::host
