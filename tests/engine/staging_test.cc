// Reading and copying side by side, without a device: the fake one keeps a copy going until it is waited for.
#include "engine/staging.h"

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Copies what a buffer holds only when the copy is waited for: a buffer that is written to before that
// arrives changed.
class FakeDevice final : public StagingDevice {
 public:
  FakeDevice(size_t buffer_bytes, std::vector<size_t> sizes) {
    for (std::vector<uint8_t>& buffer : buffers_) buffer.resize(buffer_bytes);
    for (const size_t size : sizes) tensors.emplace_back(size, '?');
  }
  absl::Span<uint8_t> Buffer(int slot) override { return absl::MakeSpan(buffers_[slot]); }
  absl::Status Begin(int slot, size_t tensor, size_t at, size_t size) override {
    log.push_back(absl::StrCat("begin ", slot));
    if (fail_at == begun_++) return absl::InternalError("the bus is gone");
    EXPECT_FALSE(pending_[slot].going) << "the slot's last copy was not waited for";
    pending_[slot] = {true, tensor, at, size};
    most_at_once = std::max(most_at_once, pending_[0].going + pending_[1].going);
    return absl::OkStatus();
  }
  absl::Status Wait(int slot) override {
    Pending& copy = pending_[slot];
    if (!copy.going) return absl::OkStatus();
    log.push_back(absl::StrCat("end ", slot));
    std::memcpy(tensors[copy.tensor].data() + copy.at, buffers_[slot].data(), copy.size);
    copy.going = false;
    return absl::OkStatus();
  }
  bool idle() const { return !pending_[0].going && !pending_[1].going; }

  std::vector<std::string> tensors;
  std::vector<std::string> log;
  int most_at_once = 0;
  int fail_at = -1;

 private:
  struct Pending {
    bool going = false;
    size_t tensor = 0, at = 0, size = 0;
  };
  std::array<std::vector<uint8_t>, 2> buffers_;
  std::array<Pending, 2> pending_;
  int begun_ = 0;
};

StagedSource Lying(const std::string& bytes) {
  StagedSource source;
  source.data = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
  source.size = bytes.size();
  return source;
}

StagedSource Made(const std::string& bytes) {
  StagedSource source;
  source.size = bytes.size();
  source.read = [bytes](void* out) {
    std::memcpy(out, bytes.data(), bytes.size());
    return absl::OkStatus();
  };
  return source;
}

TEST(Staging, EveryByteArrivesWhereverItComesFrom) {
  const std::string a = "the first tensor, longer than a buffer", b = "", c = "made", d = "another that lies";
  FakeDevice device(5, {a.size(), b.size(), c.size(), d.size()});
  const std::vector<StagedSource> sources = {Lying(a), Lying(b), Made(c), Lying(d)};
  EXPECT_THAT(Stage(sources, device), IsOk());
  EXPECT_THAT(device.tensors, ElementsAre(a, b, c, d));
  EXPECT_TRUE(device.idle());
}

TEST(Staging, OneBufferIsFilledWhileTheOtherIsCopied) {
  const std::string bytes = "0123456789";
  FakeDevice device(4, {bytes.size()});
  EXPECT_THAT(Stage(std::vector<StagedSource>{Lying(bytes)}, device), IsOk());
  EXPECT_EQ(device.most_at_once, 2);
  EXPECT_THAT(device.log, ElementsAre("begin 0", "begin 1", "end 0", "begin 0", "end 0", "end 1"));
}

TEST(Staging, AnErrorEndsItAfterWhatWasBegun) {
  const std::string bytes = "0123456789";
  FakeDevice device(2, {bytes.size()});
  device.fail_at = 2;
  EXPECT_THAT(Stage(std::vector<StagedSource>{Lying(bytes)}, device),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("the bus is gone")));
  EXPECT_TRUE(device.idle()) << "a buffer may be freed only when no copy reads it";
}

TEST(Staging, AReadThatFailsEndsItToo) {
  FakeDevice device(2, {4});
  StagedSource source = Made("abcd");
  source.read = [](void*) { return absl::InvalidArgumentError("a bool that is neither 0 nor 1"); };
  EXPECT_THAT(Stage(std::vector<StagedSource>{source}, device),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("neither 0 nor 1")));
}

}  // namespace
}  // namespace assay::engine
