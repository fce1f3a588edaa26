// GPUs as NVML, device files and files of simulated ones tell them, the room on a device, and the node around
// it.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/matchers.h"
#include "worker/gpus.h"
#include "worker/node_info.h"
#include "worker/nvml.h"
#include "worker/room.h"

namespace assay::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kGiB = uint64_t{1} << 30;

class DevicesTest : public ::testing::Test {
 protected:
  DevicesTest() : folder_(::testing::TempDir() + "/devices_test." + std::to_string(::getpid())) {
    std::filesystem::create_directories(folder_ / "dev");
    nvml_ = std::string(std::getenv("ASSAY_BUILD_DIR")) + "/lib/libassay_fake_nvml.so";
  }
  ~DevicesTest() override { std::filesystem::remove_all(folder_); }

  // What the fake driver has; see fake_nvml.cc.
  void Driver(const std::string& lines) {
    std::ofstream(folder_ / "driver") << lines;
    ::setenv("ASSAY_FAKE_NVML", (folder_ / "driver").c_str(), 1);
  }
  void DeviceFiles(const std::vector<std::string>& names) {
    for (const std::string& name : names) std::ofstream(folder_ / "dev" / name) << "";
  }
  absl::StatusOr<std::vector<Gpu>> Find(const std::vector<std::string>& environment) {
    return FindGpus(environment, {nvml_, folder_ / "dev"});
  }
  static std::vector<std::string> Names(const std::vector<Gpu>& gpus) {
    std::vector<std::string> names;
    for (const Gpu& gpu : gpus) names.push_back(gpu.visible);
    return names;
  }

  const std::filesystem::path folder_;
  std::string nvml_;
};

constexpr char kTwoGpus[] =
    "driver 550.54.14\n"
    "gpu GPU-aaaa 85899345920 9 0 0 NVIDIA H100 80GB HBM3\n"
    "gpu GPU-bbbb 25769803776 8 6 - NVIDIA A10\n";
constexpr char kSliced[] =
    "driver 550.54.14\n"
    "gpu GPU-aaaa 85899345920 9 0 1 NVIDIA H100 80GB HBM3\n"
    "hole\n"
    "slice MIG-1111 10737418240 NVIDIA H100 80GB HBM3 MIG 1g.10gb\n"
    "slice MIG-2222 42949672960 NVIDIA H100 80GB HBM3 MIG 3g.40gb\n"
    "gpu GPU-bbbb 85899345920 9 0 1 NVIDIA H100 80GB HBM3\n";

TEST_F(DevicesTest, NvmlTellsEveryGpu) {
  Driver(kTwoGpus);
  ASSERT_OK_AND_ASSIGN(const std::vector<NvmlGpu> gpus, AskNvml(nvml_));
  ASSERT_EQ(gpus.size(), 2);
  const v1::DeviceInfo& first = gpus[0].info;
  EXPECT_EQ(first.kind(), "cuda");
  EXPECT_EQ(first.id(), "GPU-aaaa");
  EXPECT_EQ(first.name(), "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(first.memory_bytes(), 80 * kGiB);
  EXPECT_EQ(first.capability(), "9.0");
  EXPECT_EQ(first.driver(), "550.54.14");
  EXPECT_EQ(first.mig_profile(), "");
  EXPECT_EQ(gpus[1].info.capability(), "8.6");
}

TEST(DriverOf, IsToldTheSameByHostsOfBothKinds) {
  EXPECT_EQ(DriverOf("550.54.14", "550.54.14 (CUDA 12.4)"), "550.54.14 (CUDA 12.4)");
  EXPECT_EQ(DriverOf("550.54.14", "CUDA 12.4"), "550.54.14 (CUDA 12.4)") << "an older host";
  EXPECT_EQ(DriverOf("550.54.14", ""), "550.54.14");
  EXPECT_EQ(DriverOf("", "CUDA 12.4"), "CUDA 12.4");
  EXPECT_EQ(DriverOf("", ""), "");
}

TEST_F(DevicesTest, SlicesStandForTheirGpu) {
  Driver(kSliced);
  ASSERT_OK_AND_ASSIGN(const std::vector<Gpu> gpus, Find({}));
  ASSERT_THAT(Names(gpus), ElementsAre("MIG-1111", "MIG-2222")) << "a GPU cut into no slices offers nothing";
  EXPECT_EQ(gpus[0].info.mig_profile(), "1g.10gb");
  EXPECT_EQ(gpus[0].info.memory_bytes(), 10 * kGiB);
  EXPECT_EQ(gpus[0].info.capability(), "9.0") << "of the whole GPU: a slice is not asked";
  EXPECT_EQ(gpus[0].info.driver(), "550.54.14");
  EXPECT_EQ(gpus[1].info.mig_profile(), "3g.40gb");
}

TEST_F(DevicesTest, CudaVisibleDevicesChooses) {
  Driver(kTwoGpus);
  const auto names = [this](const std::vector<std::string>& environment) {
    return Names(Find(environment).value());
  };
  EXPECT_THAT(names({"PATH=x"}), ElementsAre("GPU-aaaa", "GPU-bbbb"));
  EXPECT_THAT(names({"CUDA_VISIBLE_DEVICES="}), IsEmpty());
  EXPECT_THAT(names({"CUDA_VISIBLE_DEVICES=GPU-b"}), ElementsAre("GPU-bbbb"));
  EXPECT_THAT(names({"CUDA_VISIBLE_DEVICES=1,0", "CUDA_DEVICE_ORDER=PCI_BUS_ID"}),
              ElementsAre("GPU-bbbb", "GPU-aaaa"));
  EXPECT_THAT(names({"CUDA_VISIBLE_DEVICES=1,-1,0", "CUDA_DEVICE_ORDER=PCI_BUS_ID"}),
              ElementsAre("GPU-bbbb"));
  EXPECT_THAT(names({"CUDA_VISIBLE_DEVICES=GPU-b,GPU-x,GPU-a"}), ElementsAre("GPU-bbbb"))
      << "after one that is not there nothing is visible";
  EXPECT_THAT(Find({"CUDA_VISIBLE_DEVICES=0"}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("CUDA_DEVICE_ORDER=PCI_BUS_ID")));
  Driver(kSliced);
  EXPECT_THAT(names({"CUDA_VISIBLE_DEVICES=MIG-2222"}), ElementsAre("MIG-2222"));
  EXPECT_THAT(names({"CUDA_VISIBLE_DEVICES=0"}), ElementsAre("MIG-1111")) << "its first slice, as in CUDA";
}

TEST_F(DevicesTest, ADriverThatDoesNotAnswerIsAnErrorOnlyWhereThereAreGpus) {
  Driver(std::string(kTwoGpus) + "fail nvmlDeviceGetHandleByIndex_v2 15\n");
  EXPECT_THAT(AskNvml(nvml_), StatusIs(absl::StatusCode::kUnavailable,
                                       HasSubstr("nvmlDeviceGetHandleByIndex: GPU is lost (15)")));
  EXPECT_THAT(Find({}).value(), IsEmpty()) << "a library without a device: a machine whose GPU was taken out";
  DeviceFiles({"nvidia0"});
  EXPECT_THAT(Find({}), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("GPU is lost")));
}

TEST_F(DevicesTest, WithoutNvmlDeviceFilesAreCounted) {
  EXPECT_THAT(AskNvml("libassay-nowhere.so.1"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("nowhere")));
  nvml_ = "libassay-nowhere.so.1";
  EXPECT_THAT(Find({"CUDA_VISIBLE_DEVICES=0"}).value(), IsEmpty()) << "without a driver there is none";
  DeviceFiles({"nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"});
  ASSERT_OK_AND_ASSIGN(const std::vector<Gpu> gpus, Find({"PATH=x"}));
  EXPECT_THAT(Names(gpus), ElementsAre("0", "1"));
  EXPECT_EQ(gpus[1].info.id(), "cuda:1");
  EXPECT_EQ(gpus[1].info.memory_bytes(), 0) << "not known, and not made up";
  EXPECT_THAT(Names(Find({"CUDA_VISIBLE_DEVICES=3,MIG-a"}).value()), ElementsAre("3", "MIG-a"));
  EXPECT_THAT(Names(Find({"CUDA_VISIBLE_DEVICES=1,-1,0"}).value()), ElementsAre("1"));
}

TEST_F(DevicesTest, ALibraryThatIsNoNvmlIsNamed) {
  EXPECT_THAT(AskNvml("libm.so.6"), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("nvmlErrorString")));
}

TEST_F(DevicesTest, ASimulatedGpuSaysSo) {
  std::ofstream(folder_ / "gpus") << "gpu { id: \"GPU-1\" name: \"H100\" memory_bytes: 1000 }\n";
  ASSERT_OK_AND_ASSIGN(const std::vector<Gpu> gpus, ReadSimulatedGpus(folder_ / "gpus"));
  ASSERT_EQ(gpus.size(), 1);
  EXPECT_TRUE(gpus[0].simulated);
  EXPECT_EQ(gpus[0].info.name(), "SIMULATED H100 (its tests run on the CPU)");
  EXPECT_EQ(gpus[0].visible, "") << "its host sees no GPU";
  std::ofstream(folder_ / "gpus") << "gpu { name: \"H100\" }\n";
  EXPECT_THAT(ReadSimulatedGpus(folder_ / "gpus"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("id")));
  std::ofstream(folder_ / "gpus") << "gpu { colour: \"red\" }\n";
  EXPECT_THAT(ReadSimulatedGpus(folder_ / "gpus"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("gpus:1")));
}

TEST(Room, SmallTestsShareAGpuAndABigOneHasItAlone) {
  Room gpu(3, 10 * kGiB, true);
  ASSERT_TRUE(gpu.Fits(4 * kGiB));
  gpu.Take(4 * kGiB);
  EXPECT_TRUE(gpu.Fits(6 * kGiB));
  EXPECT_FALSE(gpu.Fits(7 * kGiB));
  EXPECT_FALSE(gpu.Fits(0)) << "what it needs is not known";
  EXPECT_FALSE(gpu.Fits(11 * kGiB));
  gpu.Take(6 * kGiB);
  EXPECT_FALSE(gpu.Fits(1));
  gpu.Give(4 * kGiB);
  gpu.Give(6 * kGiB);
  for (const uint64_t alone : {uint64_t{0}, 11 * kGiB}) {
    ASSERT_TRUE(gpu.Fits(alone));
    gpu.Take(alone);
    EXPECT_FALSE(gpu.Fits(1));
    gpu.Give(alone);
  }
  for (int i = 0; i < 3; ++i) gpu.Take(1);
  EXPECT_FALSE(gpu.Fits(1)) << "no slot";
}

TEST(Room, AGpuOfUnknownMemoryRunsOneTestAtATime) {
  Room gpu(4, 0, true);
  gpu.Take(kGiB);
  EXPECT_FALSE(gpu.Fits(1));
}

TEST(Room, ACpuCountsSlotsAlone) {
  Room cpu(2, 0, false);
  cpu.Take(0);
  EXPECT_TRUE(cpu.Fits(100 * kGiB));
  cpu.Take(100 * kGiB);
  EXPECT_FALSE(cpu.Fits(0));
}

TEST_F(DevicesTest, DescribesTheNode) {
  std::filesystem::create_directories(folder_ / "proc");
  std::filesystem::create_directories(folder_ / "etc");
  std::ofstream(folder_ / "etc/os-release")
      << "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
  std::ofstream(folder_ / "proc/meminfo") << "MemTotal:       32768000 kB\nMemFree: 1 kB\n";
  std::ofstream(folder_ / "proc/cpuinfo") << "processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 vme avx512f\n";
  const v1::NodeInfo node = DescribeNode(folder_);
  EXPECT_EQ(node.os(), "Debian GNU/Linux 12 (bookworm)");
  EXPECT_EQ(node.memory_bytes(), uint64_t{32768000} * 1024);
  EXPECT_THAT(node.cpu_feature(), ElementsAre("amx_bf16", "avx2", "avx512f"));
  EXPECT_GT(node.cpus(), 0);
  EXPECT_NE(node.hostname(), "");
  const v1::NodeInfo silent = DescribeNode(folder_ / "nowhere");
  EXPECT_EQ(silent.os(), "");
  EXPECT_EQ(silent.memory_bytes(), 0);
}

TEST(DescribeNode, TellsThisMachine) {
  const v1::NodeInfo node = DescribeNode();
  EXPECT_GT(node.memory_bytes(), uint64_t{1} << 28);
  EXPECT_NE(node.os(), "");
}

}  // namespace
}  // namespace assay::worker
