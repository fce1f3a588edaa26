#include "common/framing.h"

#include <random>
#include <string>
#include <vector>

#include "assay/v1/host.pb.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "tests/matchers.h"

namespace assay {
namespace {

using ::testing::HasSubstr;

v1::HostEvent Log(size_t bytes) {
  v1::HostEvent event;
  event.set_id("7");
  event.mutable_log()->set_text(std::string(bytes, 'x'));
  return event;
}

TEST(Framing, GivesBackWhatWasWrittenHoweverItIsCut) {
  std::string stream;
  const size_t sizes[] = {0, 1, 100, 127, 128, 20000, 70000, 3'000'000};
  for (size_t size : sizes) AppendFrame(Log(size), stream);
  for (size_t piece : {size_t{1}, size_t{7}, size_t{4096}, stream.size()}) {
    FrameReader reader;
    std::vector<size_t> got;
    std::string frame;
    for (size_t at = 0; at < stream.size(); at += piece) {
      reader.Append(absl::string_view(stream).substr(at, piece));
      while (true) {
        ASSERT_OK_AND_ASSIGN(bool whole, reader.Next(frame));
        if (!whole) break;
        v1::HostEvent event;
        ASSERT_TRUE(event.ParseFromString(frame));
        got.push_back(event.log().text().size());
      }
    }
    EXPECT_THAT(got, ::testing::ElementsAreArray(sizes));
    EXPECT_TRUE(reader.empty());
  }
}

TEST(Framing, IsTheFormThatProtobufItselfReads) {
  std::string stream;
  AppendFrame(Log(300), stream);
  google::protobuf::io::ArrayInputStream input(stream.data(), static_cast<int>(stream.size()));
  v1::HostEvent event;
  bool clean_end = false;
  ASSERT_TRUE(google::protobuf::util::ParseDelimitedFromZeroCopyStream(&event, &input, &clean_end));
  EXPECT_EQ(event.log().text().size(), 300u);
}

TEST(Framing, AnEmptyMessageIsAFrame) {
  std::string stream, frame = "old";
  AppendFrame(v1::HostEvent(), stream);
  FrameReader reader;
  reader.Append(stream);
  EXPECT_THAT(reader.Next(frame), IsOkAndHolds(true));
  EXPECT_EQ(frame, "");
}

TEST(Framing, HalfAFrameIsNotEmpty) {
  std::string stream, frame;
  AppendFrame(Log(300), stream);
  for (size_t cut : {size_t{1}, size_t{10}, stream.size() - 1}) {
    FrameReader reader;
    reader.Append(stream.substr(0, cut));
    EXPECT_THAT(reader.Next(frame), IsOkAndHolds(false));
    EXPECT_FALSE(reader.empty());
  }
}

TEST(Framing, RefusesALengthThatDoesNotEnd) {
  FrameReader reader;
  reader.Append(std::string(16, '\xff'));
  std::string frame;
  EXPECT_THAT(reader.Next(frame), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("does not end")));
  EXPECT_THAT(reader.Next(frame), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("does not end")));
}

TEST(Framing, RefusesAFrameAboveTheLimitWithoutWaitingForIt) {
  FrameReader reader(100);
  reader.Append(std::string("\x65", 1));  // 101
  std::string frame;
  EXPECT_THAT(reader.Next(frame), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("101 bytes")));
}

TEST(Framing, RefusesALengthAboveTheLimitBeforeItsLastByte) {
  // All there is of the third says 2 MiB less a byte; more bytes could only make it more.
  for (const std::string& bytes :
       {std::string("\xff\xff\xff\xff\x0f"), std::string(4, '\xff'), std::string(3, '\xff')}) {
    FrameReader reader(size_t{1} << 20);
    reader.Append(bytes);
    std::string frame;
    EXPECT_THAT(reader.Next(frame), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("at most")));
    EXPECT_THAT(reader.Next(frame), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("at most")));
  }
}

TEST(Framing, RandomBytesNeitherCrashNorHang) {
  std::mt19937 random(20);
  for (int round = 0; round < 2000; ++round) {
    FrameReader reader(1 << 16);
    std::string frame;
    size_t given = 0, taken = 0;
    bool broken = false;
    while (given < 4096 && !broken) {
      std::string piece(1 + random() % 64, '\0');
      for (char& c : piece) c = static_cast<char>(random() % (round % 2 == 0 ? 256 : 24));
      reader.Append(piece);
      given += piece.size();
      while (true) {
        absl::StatusOr<bool> whole = reader.Next(frame);
        broken = !whole.ok();
        if (broken || !*whole) break;
        taken += frame.size() + 1;
        v1::HostEvent event;
        (void)event.ParseFromString(frame);
      }
    }
    ASSERT_LE(taken, given);
  }
}

}  // namespace
}  // namespace assay
