// The driver's version as a run's provenance has it, from played driver libraries.
#include "engine/cuda_device.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "engine/gate.h"
#include "engine/recording.h"
#include "engine/run_test.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class CudaDeviceTest : public ::testing::Test {
 protected:
  CudaDeviceTest() : file_(::testing::TempDir() + "/cuda_device_test." + std::to_string(::getpid())) {
    const std::string libraries = std::string(std::getenv("ASSAY_BUILD_DIR")) + "/lib/libassay_fake_";
    places_.cuda = libraries + "cuda.so";
    places_.nvml = libraries + "nvml.so";
  }
  ~CudaDeviceTest() override { std::filesystem::remove(file_); }

  // See tests/worker/fake_nvml.cc.
  std::string DriverOf(const std::string& lines) {
    std::ofstream(file_) << lines;
    ::setenv("ASSAY_FAKE_NVML", file_.c_str(), 1);
    const std::optional<v1::DeviceInfo> device = FindCudaDevice(places_);
    EXPECT_TRUE(device.has_value());
    return device ? device->driver() : "";
  }

  const std::string file_;
  CudaLibraries places_;
};

TEST_F(CudaDeviceTest, TheDriversOwnVersionIsTold) {
  EXPECT_EQ(DriverOf("driver 550.54.14\n"), "550.54.14 (CUDA 12.4)");
  const std::optional<v1::DeviceInfo> device = FindCudaDevice(places_);
  ASSERT_TRUE(device.has_value());
  EXPECT_EQ(device->name(), "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(device->capability(), "9.0");
}

TEST_F(CudaDeviceTest, WithoutNvmlCudasVersionIsWhatIsKnown) {
  EXPECT_EQ(DriverOf("driver 550.54.14\nfail nvmlSystemGetDriverVersion 9\n"), "CUDA 12.4");
  places_.nvml = "/nowhere/libnvidia-ml.so.1";
  EXPECT_EQ(DriverOf("driver 550.54.14\n"), "CUDA 12.4");
  places_.cuda = "/nowhere/libcuda.so.1";
  EXPECT_FALSE(FindCudaDevice(places_).has_value());
}

// Two drivers that serve the same CUDA: a recording of each on its way through a file, and what the gate
// says.
TEST_F(CudaDeviceTest, TheGateTellsOneDriverFromAnother) {
  SetThreads(1);
  const v1::Program bert = RealProgram("bert");
  ASSERT_OK_AND_ASSIGN(const GivenWeights weights, OwnMockWeights(bert.manifest()));
  ASSERT_OK_AND_ASSIGN(const std::vector<at::Tensor> inputs, GoldenInputs(bert));
  ASSERT_OK_AND_ASSIGN(v1::Recording run,
                       Record(bert, std::string(64, '0'), weights, inputs, Placement(), 4));
  const auto with_driver = [&](const std::string& lines) {
    DriverOf(lines);
    *run.mutable_provenance()->mutable_device() = *FindCudaDevice(places_);
    const auto bytes = SerializeRecording(run);
    EXPECT_THAT(bytes, IsOk());
    const auto read = ParseRecording(*bytes);
    EXPECT_THAT(read, IsOk());
    return *read;
  };
  const v1::Recording before = with_driver("driver 550.54.14\n"), after = with_driver("driver 550.90.07\n");
  const v1::GateResult result = CompareRecordings(before, after, true);
  EXPECT_EQ(result.verdict(), v1::SAME);
  EXPECT_THAT(result.note(), Contains("driver 550.54.14 (CUDA 12.4), then 550.90.07 (CUDA 12.4)"));
  EXPECT_THAT(result.to(), HasSubstr("driver 550.90.07 (CUDA 12.4)"));
}

}  // namespace
}  // namespace assay::engine
