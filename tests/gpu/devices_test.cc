#include "gpu/devices.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace forge::gpu {
namespace {

namespace fs = std::filesystem;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr const char* kInformation =
    "Model: \t\t NVIDIA H100 80GB HBM3\n"
    "IRQ:   \t\t 103\n"
    "GPU UUID: \t GPU-6cbd0ab8-2c5e-1f1c-8c35-3a1e9f0f7a11\n"
    "Video BIOS: \t 96.00.74.00.01\n"
    "Bus Type: \t PCIe\n"
    "DMA Size: \t 52 bits\n"
    "DMA Mask: \t 0xfffffffffffff\n"
    "Bus Location: \t 0000:1B:00.0\n"
    "Device Minor: \t 3\n"
    "GPU Firmware: \t 535.129.03\n"
    "GPU Excluded:\t No\n";

/// A root folder with a driver's files in it.
class Devices : public ::testing::Test {
 protected:
  Devices() {
    std::string pattern = (fs::temp_directory_path() / "forge-devices-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  ~Devices() override { fs::remove_all(root_); }

  void write(const fs::path& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void write_device(const std::string& bus_id, const std::string& information) {
    write("proc/driver/nvidia/gpus/" + bus_id + "/information", information);
  }

  fs::path root_;
};

TEST_F(Devices, ListsNothingWithoutDriver) { EXPECT_THAT(list_devices(root_), IsEmpty()); }

TEST_F(Devices, ListsNothingWhenDriverHasNoDevice) {
  fs::create_directories(root_ / "proc/driver/nvidia/gpus");
  EXPECT_THAT(list_devices(root_), IsEmpty());
}

TEST_F(Devices, ReadsAllFieldsOfTheDriversFile) {
  write_device("0000:1b:00.0", kInformation);
  write("sys/bus/pci/devices/0000:1b:00.0/numa_node", "1\n");
  write("sys/devices/system/node/node1/cpulist", "16-31,48-63\n");
  const auto devices = list_devices(root_);
  ASSERT_THAT(devices, SizeIs(1));
  EXPECT_EQ(devices[0].index, 0);
  EXPECT_EQ(devices[0].uuid, "GPU-6cbd0ab8-2c5e-1f1c-8c35-3a1e9f0f7a11");
  EXPECT_EQ(devices[0].model, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(devices[0].bus_id, "0000:1b:00.0");
  EXPECT_EQ(devices[0].minor, 3);
  EXPECT_EQ(devices[0].numa_node, 1);
  EXPECT_EQ(devices[0].cpus, "16-31,48-63");
}

TEST_F(Devices, SaysUnknownWhereTheMachineDoes) {
  write_device("0000:1b:00.0", "GPU UUID: GPU-1\nDevice Minor: none\n");
  const auto devices = list_devices(root_);
  ASSERT_THAT(devices, SizeIs(1));
  EXPECT_EQ(devices[0].bus_id, "0000:1b:00.0") << "from the folder's name";
  EXPECT_EQ(devices[0].minor, -1);
  EXPECT_EQ(devices[0].numa_node, -1);
  EXPECT_EQ(devices[0].cpus, "");
}

TEST_F(Devices, NumbersDevicesInBusOrder) {
  write_device("0000:c1:00.0", "GPU UUID: GPU-late\n");
  write_device("0000:1b:00.0", "GPU UUID: GPU-early\n");
  write_device("10000:01:00.0", "GPU UUID: GPU-other-domain\n");
  const auto devices = list_devices(root_);
  ASSERT_THAT(devices, SizeIs(3));
  EXPECT_EQ(devices[0].uuid, "GPU-early");
  EXPECT_EQ(devices[1].uuid, "GPU-late");
  EXPECT_EQ(devices[2].uuid, "GPU-other-domain");
  EXPECT_EQ(devices[2].index, 2);
}

TEST_F(Devices, LeavesOutWhatCannotBeUsed) {
  write_device("0000:01:00.0", "GPU UUID: GPU-a\nGPU Excluded: Yes\n");
  write_device("0000:02:00.0", "GPU UUID: GPU-" + std::string(8, '?') + "\n");
  write_device("0000:03:00.0", "no colon here\nModel: half a device\n");
  write_device("0000:04:00.0", "");
  fs::create_directories(root_ / "proc/driver/nvidia/gpus/0000:05:00.0");
  EXPECT_THAT(list_devices(root_), IsEmpty());
}

struct Visible {
  const char* variable;
  std::vector<std::string> expected;
};

class VisibleDevices : public ::testing::TestWithParam<Visible> {};

TEST_P(VisibleDevices, AreThoseThatTheVariableNames) {
  std::vector<Device> all(4);
  const char* const uuids[] = {"GPU-aa11", "GPU-aa22", "GPU-bb33", "GPU-cc44"};
  for (int i = 0; i < 4; ++i) {
    all[static_cast<std::size_t>(i)].index = i;
    all[static_cast<std::size_t>(i)].uuid = uuids[i];
  }
  std::vector<std::string> seen;
  for (const Device& device : visible_devices(all, GetParam().variable))
    seen.push_back(device.uuid);
  EXPECT_EQ(seen, GetParam().expected) << "CUDA_VISIBLE_DEVICES=" << GetParam().variable;
}

INSTANTIATE_TEST_SUITE_P(
    All, VisibleDevices,
    ::testing::Values(Visible{"", {}}, Visible{"-1", {}}, Visible{"NoDevFiles", {}},
                      Visible{"2", {"GPU-bb33"}}, Visible{"3,0", {"GPU-cc44", "GPU-aa11"}},
                      Visible{" 1 , 2 ", {"GPU-aa22", "GPU-bb33"}}, Visible{"1,-1,2", {"GPU-aa22"}},
                      Visible{"1,9,2", {"GPU-aa22"}}, Visible{"1,,2", {"GPU-aa22"}},
                      Visible{"0,1,0", {}}, Visible{"GPU-bb33", {"GPU-bb33"}},
                      Visible{"GPU-c,GPU-aa2", {"GPU-cc44", "GPU-aa22"}},
                      Visible{"GPU-bb,GPU-aa,GPU-c", {"GPU-bb33"}}, Visible{"GPU-bb,GPU-bb33", {}},
                      Visible{"GPU-dd,GPU-bb", {}}, Visible{"bb33", {}},
                      Visible{"MIG-17,MIG-18", {"MIG-17", "MIG-18"}}));

TEST(DevicesOfThisProcess, AreAllUnlessTheEnvironmentSaysOtherwise) {
  std::vector<Device> all(2);
  all[0].uuid = "GPU-aa";
  all[1].uuid = "GPU-bb";
  ::unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_THAT(visible_devices(all), SizeIs(2));
  ASSERT_EQ(::setenv("CUDA_VISIBLE_DEVICES", "GPU-bb", 1), 0);
  const std::vector<Device> one = visible_devices(all);
  ::unsetenv("CUDA_VISIBLE_DEVICES");
  ASSERT_THAT(one, SizeIs(1));
  EXPECT_EQ(one[0].uuid, "GPU-bb");
}

struct CpuList {
  const char* text;
  std::vector<int> expected;
};

class CpuLists : public ::testing::TestWithParam<CpuList> {};

TEST_P(CpuLists, AreReadAsTheKernelWritesThem) {
  EXPECT_EQ(parse_cpu_list(GetParam().text), GetParam().expected) << GetParam().text;
}

INSTANTIATE_TEST_SUITE_P(All, CpuLists,
                         ::testing::Values(CpuList{"0", {0}}, CpuList{"0-3\n", {0, 1, 2, 3}},
                                           CpuList{"0-1,8,10-11", {0, 1, 8, 10, 11}},
                                           CpuList{"", {}}, CpuList{"\n", {}}, CpuList{"3-1", {}},
                                           CpuList{"-1", {}}, CpuList{"1,", {}}, CpuList{"a-b", {}},
                                           CpuList{"0-99999999", {}}, CpuList{"1-2-3", {}}));

TEST(RealDevices, HaveUuidAndBusPlaceIfThereAreAny) {
  for (const Device& device : list_devices()) {
    EXPECT_EQ(device.uuid.substr(0, 4), "GPU-");
    EXPECT_FALSE(device.bus_id.empty());
  }
}

}  // namespace
}  // namespace forge::gpu
