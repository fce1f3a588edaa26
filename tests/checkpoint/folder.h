// Checkpoint folders for tests, and the bytes that go into them.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/id.h"
#include "gtest/gtest.h"
#include "tests/matchers.h"

namespace assay::checkpoint {

// A safetensors file: little-endian length of the header, the header, the data.
inline std::string Safetensors(const std::string& header, const std::string& data) {
  std::string file(8, '\0');
  const uint64_t size = header.size();
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(size >> (8 * i));
  return file + header + data;
}

template <typename Number>
std::string Bytes(const std::vector<Number>& values) {
  std::string bytes(values.size() * sizeof(Number), '\0');
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

inline std::string Floats(const std::vector<float>& values) { return Bytes(values); }

// A new folder, gone with the test.
class FolderTest : public ::testing::Test {
 protected:
  FolderTest() { std::filesystem::create_directories(folder_); }
  ~FolderTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& name, const std::string& content) {
    ASSERT_THAT(WriteFileAtomically(folder_ / name, content), IsOk());
  }

  const std::filesystem::path root_ =
      std::filesystem::canonical(std::filesystem::temp_directory_path()) / ("assay_checkpoint_" + NewUuid());
  const std::filesystem::path folder_ = root_ / "folder";
};

}  // namespace assay::checkpoint
