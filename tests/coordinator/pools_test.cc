#include "coordinator/pools.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr char kFile[] = R"(pool { name: "cpu" device: "cpu" slots: 4 max_workers: 2 }
pool { name: "l4" device: "cuda" slots: 4 max_workers: 2 gpu_memory_gib: 24 label: "gpu=L4" }
pool { name: "h100" device: "cuda" slots: 4 max_workers: 1 gpu_memory_gib: 80 gpus: 2 label: "gpu=H100" }
)";

v1::Pools Three() {
  absl::StatusOr<v1::Pools> pools = ParsePools("pools", kFile);
  EXPECT_THAT(pools, IsOk());
  return *pools;
}

Ask OnGpu(uint64_t gib, const std::vector<std::string>& selector = {}) {
  return {v1::CUDA, false, {gib * kGiB, 0, false, selector}};
}

std::string Refusal(const std::string& text) {
  const absl::StatusOr<v1::Pools> pools = ParsePools("p.txt", text);
  return pools.ok() ? "accepted" : std::string(pools.status().message());
}

TEST(PoolsTest, WhatIsWrongIsNamedWithItsPlace) {
  EXPECT_THAT(Refusal("pool { name: \"a\"\n  device: \"tpu\"\n  slots: 0 max_workers: 1 }"),
              AllOf(HasSubstr("p.txt:2:3: pool[0].device: cpu or cuda is wanted"),
                    HasSubstr("p.txt:3:3: pool[0].slots: at least 1")));
  EXPECT_THAT(Refusal("pool { name: \"a\" device: \"cpu\" slots: 1 max_workers: 1 }\n"
                      "pool { name: \"a\" device: \"cpu\" slots: 1 max_workers: 1 }"),
              HasSubstr("p.txt:2:8: pool[1].name: 'a' is there twice"));
  EXPECT_THAT(
      Refusal("pool { name: \"a b\" device: \"cpu\" slots: 1 }"),
      AllOf(HasSubstr("pool[0].name: letters"), HasSubstr("p.txt:1:1: pool[0].max_workers: at least 1")));
  EXPECT_THAT(Refusal("pool { name: \"a\" device: \"cuda\" slots: 1 max_workers: 1 gpus: 2 }"),
              AllOf(HasSubstr("gpu_memory_gib: more than 0"), HasSubstr("slots: at least one a GPU")));
  EXPECT_THAT(Refusal("pool { name: \"a\" device: \"cpu\" slots: 1 max_workers: 1 gpus: 2 label: \"x y\" }"),
              AllOf(HasSubstr("gpus: only with device cuda"), HasSubstr("label: selector 'x y'")));
  EXPECT_THAT(Refusal("pool { nam: \"a\" }"), HasSubstr("p.txt:1:"));
  EXPECT_THAT(Refusal("{\"pool\": [{\"nam\": \"a\"}]}"), HasSubstr("p.txt: "));
  EXPECT_THAT(Refusal("{\"pool\": [{\"name\": \"a\", \"device\": \"cpu\", \"slots\": 1}]}"),
              HasSubstr("p.txt: pool[0].max_workers: at least 1"));
  EXPECT_EQ(Refusal("{\"pool\": [{\"name\": \"a\", \"device\": \"cpu\", \"slots\": 1, \"max_workers\": 1}]}"),
            "accepted");
  EXPECT_EQ(Refusal(""), "accepted");
}

TEST(PoolsTest, AJobTakesItsShareOfAWorker) {
  const v1::Pools pools = Three();
  EXPECT_EQ(ShareOf({v1::CPU, false, {}}, pools.pool(0)), 0.25);
  EXPECT_EQ(ShareOf({v1::CPU, false, {}}, pools.pool(1)), 0) << "it has no slots of the CPU's";
  EXPECT_EQ(ShareOf(OnGpu(1), pools.pool(1)), 0.25) << "a slot, whatever little memory";
  EXPECT_EQ(ShareOf(OnGpu(12), pools.pool(1)), 0.5);
  EXPECT_EQ(ShareOf(OnGpu(0), pools.pool(1)), 1) << "a GPU alone";
  EXPECT_EQ(ShareOf(OnGpu(0), pools.pool(2)), 0.5) << "one of its two";
  EXPECT_EQ(ShareOf(OnGpu(60), pools.pool(1)), 0);
  EXPECT_EQ(ShareOf(OnGpu(60), pools.pool(2)), 0.375);
  EXPECT_EQ(ShareOf(OnGpu(1, {"gpu=H100"}), pools.pool(1)), 0);
  EXPECT_EQ(ShareOf({v1::CPU, true, {}}, pools.pool(0)), 0) << "it is no exporter";
}

TEST(PoolsTest, EachJobCountsOnceForTheFirstPoolThatCouldTakeIt) {
  const v1::Pools pools = Three();
  EXPECT_THAT(WorkersWanted(pools, {}, {}), ElementsAre(0, 0, 0));
  EXPECT_THAT(WorkersWanted(pools, {{{v1::CPU, false, {}}, 5}}, {}), ElementsAre(1.25, 0, 0));
  EXPECT_THAT(WorkersWanted(pools, {{OnGpu(12), 3}, {OnGpu(60), 1}}, {}), ElementsAre(0, 1.5, 0.375));
  // Where the first is full with its most workers' work, the next; where all are, none.
  EXPECT_THAT(WorkersWanted(pools, {{OnGpu(12), 7}}, {}), ElementsAre(0, 2, 0.75));
  EXPECT_THAT(WorkersWanted(pools, {{OnGpu(12), 700}}, {}), ElementsAre(0, 2, 1));
  EXPECT_THAT(WorkersWanted(pools, {{OnGpu(1, {"gpu=H100"}), 2}}, {}), ElementsAre(0, 0, 0.5));
  // What runs keeps its worker.
  EXPECT_THAT(WorkersWanted(pools, {{OnGpu(12), 3}}, {{"l4", 1}, {"h100", 0.25}}), ElementsAre(0, 2, 0.5));
}

// No pool is wanted larger than it may be, nothing is counted twice, and nothing that fits is left out.
TEST(PoolsTest, DemandIsBoundedAndComplete) {
  std::mt19937_64 random(3);
  const v1::Pools pools = Three();
  for (int round = 0; round < 500; ++round) {
    std::vector<Waiting> waiting;
    for (uint64_t i = 0; i < random() % 4; ++i) {
      waiting.push_back({random() % 3 == 0 ? Ask{v1::CPU, false, {}} : OnGpu(random() % 90), random() % 12});
    }
    const std::vector<double> wanted = WorkersWanted(pools, waiting, {});
    double least = 0, total = 0;
    for (int i = 0; i < pools.pool_size(); ++i) {
      ASSERT_LE(wanted[i], pools.pool(i).max_workers() + 1e-9);
      total += wanted[i];
    }
    for (const Waiting& one : waiting) {
      double most = 0;
      for (int i = 0; i < pools.pool_size(); ++i) {
        const double share = ShareOf(one.ask, pools.pool(i));
        most = std::max(most, share);
      }
      least += most * static_cast<double>(one.jobs);
      if (one.jobs > 0 && most > 0) {
        ASSERT_GT(total, 0);
      }
    }
    ASSERT_LE(total, least + 1e-9);
  }
}

}  // namespace
}  // namespace assay::coordinator
