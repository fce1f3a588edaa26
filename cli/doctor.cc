#include "cli/doctor.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "cli/content_dir.h"
#include "cli/output.h"
#include "common/build_info.h"
#include "common/file.h"
#include "common/timestamp.h"
#include "coordinator/content.h"
#include "coordinator/store/postgres.h"
#include "hub/hub.h"
#include "nlohmann/json.hpp"

extern char** environ;

namespace assay::cli {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kGib = uint64_t{1} << 30;
// Of clocks: what logs of two machines can still be read side by side with; and what breaks certificates and
// tokens.
constexpr absl::Duration kClockWarn = absl::Seconds(2);
constexpr absl::Duration kClockFail = absl::Minutes(5);

void Ok(Findings& findings, std::string check, std::string saw) {
  findings.push_back({std::move(check), Health::kOk, std::move(saw), ""});
}
void Warn(Findings& findings, std::string check, std::string saw, std::string remedy) {
  findings.push_back({std::move(check), Health::kWarn, std::move(saw), std::move(remedy)});
}
void Fail(Findings& findings, std::string check, std::string saw, std::string remedy) {
  findings.push_back({std::move(check), Health::kFail, std::move(saw), std::move(remedy)});
}

std::string Gib(uint64_t bytes) {
  return absl::StrCat(static_cast<int64_t>(10.0 * static_cast<double>(bytes) / kGib) / 10.0, " GiB");
}

struct Ran {
  int code = -1;  // exit code; -1: it did not start, was killed or took too long
  std::string output;
};

// Standard output and error of a program, of which the first 64 KiB count.
Ran Run(const fs::path& program, std::vector<std::string> arguments, absl::Duration limit) {
  Ran ran;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ran;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
  arguments.insert(arguments.begin(), program.string());
  std::vector<char*> words;
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  pid_t child = -1;
  const int failed = posix_spawn(&child, program.c_str(), &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (failed != 0) {
    close(ends[0]);
    ran.output = std::strerror(failed);
    return ran;
  }
  const absl::Time end = absl::Now() + limit;
  bool open = true;
  while (open && absl::Now() < end) {
    pollfd ready{ends[0], POLLIN, 0};
    if (poll(&ready, 1, static_cast<int>(absl::ToInt64Milliseconds(end - absl::Now()))) <= 0) break;
    char buffer[4096];
    const ssize_t got = read(ends[0], buffer, sizeof(buffer));
    if (got <= 0) open = false;
    if (got > 0 && ran.output.size() < 65536) ran.output.append(buffer, static_cast<size_t>(got));
  }
  if (open) kill(child, SIGKILL);
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!open && WIFEXITED(status)) ran.code = WEXITSTATUS(status);
  return ran;
}

// Whether somebody holds the lock that coordinators and workers take on their folders.
bool InUse(const fs::path& folder) {
  const int fd = open((folder / "lock").c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return false;
  const bool held = flock(fd, LOCK_EX | LOCK_NB) != 0;
  close(fd);
  return held;
}

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

fs::path HostBinary(const DoctorOptions& options) {
  return options.host_binary.empty() ? ExecutablePath().parent_path() / "assay-host"
                                     : fs::path(options.host_binary);
}

}  // namespace

void CheckFolder(const std::string& check, const std::string& folder, uint64_t wanted_bytes,
                 Findings& findings) {
  std::error_code error;
  if (!fs::exists(folder, error)) {
    // What would be made below it has to fit there.
    Ok(findings, check, absl::StrCat(folder, " is not there yet: it is made when it is needed"));
    return;
  }
  if (!fs::is_directory(folder, error)) {
    return Fail(findings, check, absl::StrCat(folder, " is no folder"),
                "name another one, or move what is there away");
  }
  if (access(folder.c_str(), R_OK | W_OK | X_OK) != 0) {
    return Fail(findings, check, absl::StrCat(folder, ": ", std::strerror(errno)),
                "let the user that the program runs as read and write it");
  }
  const fs::space_info space = fs::space(folder, error);
  if (error)
    return Fail(findings, check, absl::StrCat(folder, ": ", error.message()), "see what is mounted there");
  const std::string saw = absl::StrCat(folder, ", ", Gib(space.available), " free");
  if (space.available < wanted_bytes / 10) {
    return Fail(
        findings, check, saw,
        absl::StrCat("free some: work stops when it is full; ", Gib(wanted_bytes), " are comfortable"));
  }
  if (space.available < wanted_bytes) {
    return Warn(findings, check, saw, absl::StrCat(Gib(wanted_bytes), " are comfortable"));
  }
  Ok(findings, check, saw);
}

void CheckClient(const DoctorOptions& options, Findings& findings) {
  Ok(findings, "client.build", VersionLine("assay"));
  const absl::StatusOr<fs::path> content = FindContentDir(options.content_dir);
  if (!content.ok()) {
    return Warn(
        findings, "client.content", std::string(content.status().message()),
        "only `assay run`, `assay generate` and a coordinator need templates/ and models/: name their folder"
        " with --content-dir or ASSAY_CONTENT_DIR");
  }
  const auto loaded = coordinator::Content::Load(*content);
  if (!loaded.ok()) {
    return Fail(findings, "client.content", std::string(loaded.status().message()),
                "mend the file that is named, or restore it from the release");
  }
  Ok(findings, "client.content",
     absl::StrCat(content->string(), ": ", (*loaded)->template_names().size(), " templates, ",
                  (*loaded)->catalogue().size(), " models in the catalogue"));
}

void CheckCoordinator(const DoctorOptions& options, Findings& findings) {
  ConnectionOptions connection_options = options.connection;
  connection_options.deadline = std::min(connection_options.deadline, absl::Seconds(5));
  connection_options.give_up = absl::ZeroDuration();
  Connection connection(connection_options);
  const absl::Time start = absl::Now();
  const absl::StatusOr<v1::ListWorkersResponse> workers = connection.ListWorkers();
  const absl::Duration took = absl::Now() - start;
  if (!workers.ok()) {
    const std::string saw(workers.status().message());
    if (absl::IsUnauthenticated(workers.status()) || absl::IsPermissionDenied(workers.status())) {
      return Fail(findings, "coordinator.answer", saw, "give a token with the role read (docs/security.md)");
    }
    if (!options.coordinator_named) {
      return Warn(findings, "coordinator.answer", saw,
                  "none was named: give --address HOST:PORT or set ASSAY_ADDRESS, or start one");
    }
    return Fail(findings, "coordinator.answer", saw,
                "see whether it runs and its log says `serving on`, and whether a firewall lies between");
  }
  Ok(findings, "coordinator.answer",
     absl::StrCat(connection_options.address, " and its store answered in ",
                  absl::FormatDuration(absl::Trunc(took, absl::Microseconds(100)))));
  const std::string build =
      workers->build().empty() ? "of a release before builds were told" : workers->build();
  if (build == BuildVersion()) {
    Ok(findings, "coordinator.build", build);
  } else {
    Warn(findings, "coordinator.build",
         absl::StrCat("coordinator: ", build, "; this command: ", BuildVersion()),
         "fine during an upgrade, for one release back is served; else install the same everywhere");
  }
  if (workers->has_time()) {
    // By the middle of the call, as far as it matters.
    const absl::Duration ahead = TimeOf(workers->time()) - (start + took / 2);
    const absl::Duration off = absl::AbsDuration(ahead) - took / 2;
    const std::string saw =
        absl::StrCat("the coordinator's clock is ",
                     absl::FormatDuration(absl::Trunc(absl::AbsDuration(ahead), absl::Milliseconds(1))),
                     ahead > absl::ZeroDuration() ? " ahead of" : " behind", " this machine's");
    const std::string remedy =
        "see to time synchronisation on both machines: certificates and tokens are judged by it";
    if (off > kClockFail) {
      Fail(findings, "clock.coordinator", saw, remedy);
    } else if (off > kClockWarn) {
      Warn(findings, "clock.coordinator", saw, remedy);
    } else {
      Ok(findings, "clock.coordinator", saw);
    }
    const absl::Duration store = TimeOf(workers->store_time()) - TimeOf(workers->time());
    const std::string store_saw = absl::StrCat(
        "the store's clock and its coordinator's are ",
        absl::FormatDuration(absl::Trunc(absl::AbsDuration(store), absl::Milliseconds(1))), " apart");
    if (absl::AbsDuration(store) > kClockWarn) {
      Warn(findings, "clock.store", store_saw, "see to time synchronisation on the database's machine");
    } else {
      Ok(findings, "clock.store", store_saw);
    }
  }
  if (const std::string shown = connection.server_certificate(); !shown.empty()) {
    CheckCertificate("coordinator.certificate", "the one that it shows", shown, absl::Now(), findings);
  }
  CheckWorkerCertificates(*workers, absl::Now(), findings);
  size_t connected = 0, cordoned = 0;
  for (const v1::WorkerSummary& worker : workers->worker()) {
    connected += worker.connected() ? 1 : 0;
    cordoned += worker.cordoned() ? 1 : 0;
  }
  const std::string saw = absl::StrCat(connected, " connected, ", cordoned, " cordoned");
  if (connected == 0) {
    Warn(findings, "coordinator.workers", saw,
         "start assay-worker with --coordinator, or see why a pool has none");
  } else if (cordoned > 0) {
    Warn(findings, "coordinator.workers", saw, "`assay workers` says why; `assay uncordon WORKER` ends it");
  } else {
    Ok(findings, "coordinator.workers", saw);
  }
}

void CheckCoordinatorHere(const DoctorOptions& options, Findings& findings) {
  if (!options.data_dir.empty()) {
    CheckFolder("coordinator.data", options.data_dir, 10 * kGib, findings);
    std::error_code error;
    if (fs::is_directory(options.data_dir, error)) {
      Ok(findings, "coordinator.running",
         InUse(options.data_dir) ? "a coordinator holds the data folder"
                                 : "no coordinator holds the data folder");
    }
  }
  if (options.database.empty()) return;
  if (absl::Status status = coordinator::CheckPostgresUrl(options.database); !status.ok()) {
    return Fail(findings, "coordinator.database", std::string(status.message()),
                "mend --database or ASSAY_DATABASE");
  }
  auto connection = coordinator::PostgresConnection::Connect(options.database, "assay doctor");
  if (!connection.ok()) {
    return Fail(findings, "coordinator.database", std::string(connection.status().message()),
                "see whether the server runs, takes connections from here, and is the primary");
  }
  const int version = (*connection)->server_version();
  const absl::Time asked = absl::Now();
  auto rows = (*connection)->Read("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
  if (!rows.ok() || rows->size() != 1) {
    return Fail(findings, "coordinator.database", std::string(rows.status().message()),
                "see the server's log");
  }
  const absl::Duration ahead = absl::FromUnixMicros(rows->Int(0, 0)) - (asked + (absl::Now() - asked) / 2);
  if (version < 150000) {
    Fail(findings, "coordinator.database", absl::StrCat("PostgreSQL ", version / 10000),
         "15 or later is needed");
  } else {
    Ok(findings, "coordinator.database",
       absl::StrCat("PostgreSQL ", version / 10000, ".", version % 10000, ", writable"));
  }
  const std::string saw = absl::StrCat(
      "the database's clock and this machine's are ",
      absl::FormatDuration(absl::Trunc(absl::AbsDuration(ahead), absl::Milliseconds(1))), " apart");
  if (absl::AbsDuration(ahead) > kClockWarn) {
    Warn(findings, "clock.database", saw,
         "see to time synchronisation; leases are counted by the database's clock");
  } else {
    Ok(findings, "clock.database", saw);
  }
}

void CheckWorkerHere(const DoctorOptions& options, Findings& findings) {
  const fs::path host = HostBinary(options);
  const Ran version = Run(host, {"--version"}, absl::Seconds(60));
  if (version.code != 0) {
    Fail(findings, "worker.host", absl::StrCat(host.string(), " does not run: ", FirstLine(version.output)),
         "a worker needs it with LibTorch beside it: name it with --host-binary, or install it (README)");
  } else if (FirstLine(version.output).find(BuildVersion()) == std::string::npos) {
    Warn(findings, "worker.host", FirstLine(version.output),
         absl::StrCat("this command is ", BuildVersion(), ": install all of one build"));
  } else {
    Ok(findings, "worker.host", FirstLine(version.output));
  }
  const fs::path sandbox = host.parent_path() / "assay-sandbox";
  const Ran walls = Run(sandbox, {"--strict", "--", "/bin/true"}, absl::Seconds(20));
  if (walls.code == 0) {
    Ok(findings, "worker.walls", "the kernel puts up every wall around a test");
  } else if (walls.code == 126) {
    Warn(findings, "worker.walls",
         absl::StrReplaceAll(std::string(absl::StripTrailingAsciiWhitespace(walls.output)),
                             {{"assay-sandbox: ", ""}, {"\n", "; "}}),
         "tests run without it; a kernel of 5.13 or later with Landlock and seccomp has them all");
  } else {
    Warn(findings, "worker.walls", absl::StrCat(sandbox.string(), " does not run: ", FirstLine(walls.output)),
         "export stages need it: install all of one build");
  }
  if (!options.state_dir.empty()) {
    CheckFolder("worker.state", options.state_dir, 20 * kGib, findings);
    std::error_code error;
    const fs::path identity = fs::path(options.state_dir) / "tls" / "worker.pem";
    if (const auto pem = ReadFile(identity.string()); pem.ok()) {
      CheckCertificate("worker.certificate", identity.string(), *pem, absl::Now(), findings);
    }
    if (fs::is_directory(options.state_dir, error)) {
      Ok(findings, "worker.running",
         InUse(options.state_dir) ? "a worker holds the state folder" : "no worker holds the state folder");
    }
  }
  if (!options.exporter.empty()) {
    const fs::path python = fs::path(options.exporter) / ".venv" / "bin" / "python";
    const Ran imported = Run(python,
                             {"-c",
                              "import torch, transformers; print('transformers', transformers.__version__, "
                              "'torch', torch.__version__)"},
                             absl::Minutes(2));
    if (imported.code == 0) {
      Ok(findings, "worker.exporter", FirstLine(imported.output));
    } else {
      Fail(findings, "worker.exporter", absl::StrCat(python.string(), ": ", FirstLine(imported.output)),
           absl::StrCat("run ", (fs::path(options.exporter) / "setup").string()));
    }
  }
}

void CheckGpus(const DoctorOptions& options, Findings& findings) {
  std::error_code error;
  size_t devices = 0;
  for (const auto& entry : fs::directory_iterator("/dev", error)) {
    absl::string_view name(entry.path().filename().native());
    devices += absl::ConsumePrefix(&name, "nvidia") && !name.empty() &&
                       name.find_first_not_of("0123456789") == absl::string_view::npos
                   ? 1
                   : 0;
  }
  if (devices == 0) return Ok(findings, "gpu.devices", "none: tests run on the CPU");
  std::ifstream file("/proc/driver/nvidia/version");
  std::string driver;
  std::getline(file, driver);
  if (driver.empty()) {
    return Fail(findings, "gpu.devices", absl::StrCat(devices, " device files and no driver"),
                "load the NVIDIA driver; in a container, use its container toolkit");
  }
  Ok(findings, "gpu.devices", absl::StrCat(devices, " GPUs; ", driver));
  const Ran smi =
      Run("/usr/bin/nvidia-smi",
          {"--query-gpu=name,memory.total,ecc.errors.uncorrected.volatile.total", "--format=csv,noheader"},
          absl::Seconds(30));
  if (smi.code == 0) {
    Ok(findings, "gpu.memory",
       absl::StrReplaceAll(std::string(absl::StripTrailingAsciiWhitespace(smi.output)), {{"\n", "; "}}));
  } else {
    Warn(findings, "gpu.memory", "nvidia-smi is not here, or does not answer",
         "install the driver's tools to see memory and ECC errors");
  }
  const Ran libraries = Run("/usr/bin/ldd", {HostBinary(options).string()}, absl::Seconds(30));
  const size_t at = libraries.output.find("libtorch_cpu.so => ");
  fs::path folder;
  if (at != std::string::npos) {
    const size_t start = at + strlen("libtorch_cpu.so => ");
    folder =
        fs::path(libraries.output.substr(start, libraries.output.find(' ', start) - start)).parent_path();
  }
  if (folder.empty() || !fs::exists(folder / "libtorch_cuda.so", error)) {
    return Warn(
        findings, "gpu.libtorch",
        absl::StrCat("no libtorch_cuda.so beside ", folder.empty() ? "the test host" : folder.string()),
        "GPUs stay unused: scripts/bundle_host makes a test host with the CUDA build of LibTorch");
  }
  Ok(findings, "gpu.libtorch", (folder / "libtorch_cuda.so").string());
}

void CheckClock(Findings& findings) {
  timex state{};
  const int clock = adjtimex(&state);
  if (clock < 0) return Warn(findings, "clock.machine", std::strerror(errno), "");
  const absl::CivilSecond floor(2026, 1, 1);
  if (absl::Now() < absl::FromCivil(floor, absl::UTCTimeZone())) {
    return Fail(findings, "clock.machine",
                absl::StrCat("it is ", absl::FormatTime(absl::Now(), absl::UTCTimeZone()), " here"),
                "set the clock");
  }
  if (clock == TIME_ERROR || (state.status & STA_UNSYNC) != 0) {
    return Warn(findings, "clock.machine", "the kernel says that nobody synchronises the clock",
                "run chrony or systemd-timesyncd on the machine (a virtual machine may be set by its host)");
  }
  Ok(findings, "clock.machine", "synchronised");
}

void CheckCaches(const DoctorOptions& options, Findings& findings) {
  const hub::HubOptions hub = hub::HubOptions::FromEnvironment();
  if (hub.cache_dir.empty()) {
    Warn(findings, "cache.hub", "no folder is known for it", "set HF_HOME or HF_HUB_CACHE");
  } else {
    CheckFolder("cache.hub", hub.cache_dir.string(), 50 * kGib, findings);
    std::error_code error;
    size_t halves = 0, models = 0;
    for (const auto& entry : fs::directory_iterator(hub.cache_dir, error)) {
      if (entry.path().filename().native().rfind("models--", 0) != 0) continue;
      ++models;
      std::error_code below;
      for (const auto& blob : fs::directory_iterator(entry.path() / "blobs", below)) {
        halves += blob.path().extension() == ".incomplete" ? 1 : 0;
      }
    }
    const std::string saw = absl::StrCat(models, " checkpoints, ", halves, " half downloaded");
    if (halves > 0) {
      Warn(findings, "cache.hub_content", saw,
           "a download that runs finishes them; else the next one goes on from there");
    } else if (fs::is_directory(hub.cache_dir, error)) {
      Ok(findings, "cache.hub_content", saw);
    }
  }
  if (!options.state_dir.empty()) {
    std::error_code error;
    uint64_t bytes = 0, blobs = 0;
    for (const auto& entry : fs::directory_iterator(fs::path(options.state_dir) / "blobs", error)) {
      std::error_code one;
      const uint64_t size = entry.file_size(one);
      if (!one) bytes += size, ++blobs;
    }
    if (!error) Ok(findings, "cache.blobs", absl::StrCat(blobs, " blobs, ", Gib(bytes)));
  }
}

ExitCode DoctorCommand(const DoctorOptions& options) {
  Findings findings;
  CheckClient(options, findings);
  CheckCoordinator(options, findings);
  CheckCoordinatorHere(options, findings);
  CheckWorkerHere(options, findings);
  CheckGpus(options, findings);
  CheckTls(options, absl::Now(), findings);
  CheckClock(findings);
  CheckCaches(options, findings);

  static constexpr const char* kNames[] = {"ok", "warn", "fail"};
  size_t counts[3] = {};
  nlohmann::json checks = nlohmann::json::array();
  std::string text;
  for (const Finding& finding : findings) {
    const size_t state = static_cast<size_t>(finding.health);
    ++counts[state];
    checks.push_back({{"check", finding.check},
                      {"state", kNames[state]},
                      {"saw", finding.saw},
                      {"remedy", finding.remedy}});
    const std::string name = kNames[state];
    absl::StrAppend(&text, name, std::string(6 - name.size(), ' '), finding.check,
                    std::string(finding.check.size() < 22 ? 22 - finding.check.size() : 1, ' '), finding.saw,
                    "\n");
    if (!finding.remedy.empty()) absl::StrAppend(&text, std::string(28, ' '), "→ ", finding.remedy, "\n");
  }
  if (options.json) {
    text =
        nlohmann::json{{"check", checks}, {"ok", counts[0]}, {"warn", counts[1]}, {"fail", counts[2]}}.dump(
            2, ' ', false, nlohmann::json::error_handler_t::replace) +
        "\n";
  } else {
    absl::StrAppend(&text, counts[0], " ok, ", counts[1], " to look at, ", counts[2], " failed\n");
  }
  const absl::Status written = Write("", text);
  if (!written.ok()) return Complain(written);
  return counts[2] > 0 ? kExitInfrastructure : kExitOk;
}

}  // namespace assay::cli
