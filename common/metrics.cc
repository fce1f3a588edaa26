#include "common/metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <exception>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/build_info.h"
#include "common/trace.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/gauge.h"

namespace assay {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct ProcessFigures {
  double start_seconds = 0;  // since the epoch
  double virtual_bytes = 0;
  double resident_bytes = 0;
  double threads = 0;
};

// proc(5): the fields after the program's name, which may hold anything, parentheses too.
ProcessFigures ReadProcess() {
  ProcessFigures figures;
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return figures;
  std::istringstream rest(line.substr(name_end + 1));
  std::string field;
  double ticks = 0;
  for (int number = 3; rest >> field; ++number) {
    double value = 0;
    (void)absl::SimpleAtod(field, &value);
    if (number == 20) figures.threads = value;
    if (number == 22) ticks = value;
    if (number == 23) figures.virtual_bytes = value;
    if (number == 24) figures.resident_bytes = value * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  }
  std::ifstream boot("/proc/stat");
  while (std::getline(boot, line)) {
    double since = 0;
    if (line.rfind("btime ", 0) == 0 && absl::SimpleAtod(line.substr(6), &since)) {
      figures.start_seconds = since + ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
    }
  }
  return figures;
}

double OpenFiles() {
  double count = 0;
  if (DIR* folder = opendir("/proc/self/fd"); folder != nullptr) {
    while (readdir(folder) != nullptr) ++count;
    closedir(folder);
  }
  return count - 3;  // ".", ".." and the folder itself
}

class ProcessMetrics final : public prometheus::Collectable {
 public:
  explicit ProcessMetrics(std::string program) : program_(std::move(program)) {}

  std::vector<MetricFamily> Collect() const override {
    std::vector<MetricFamily> families;
    const auto add = [&families](MetricType type, const std::string& name, const std::string& help,
                                 double value, std::vector<ClientMetric::Label> labels = {}) {
      ClientMetric metric;
      metric.label = std::move(labels);
      (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
      families.push_back({name, help, type, {metric}});
    };
    add(MetricType::Gauge, "assay_build_info", "1; which Assay this is", 1,
        {{"program", program_}, {"version", BuildVersion()}});
    add(MetricType::Counter, "assay_trace_spans_exported_total", "Spans that the trace collector took",
        static_cast<double>(Tracer::Global().exported()));
    add(MetricType::Counter, "assay_trace_spans_dropped_total",
        "Spans that the trace collector did not take, or not in time",
        static_cast<double>(Tracer::Global().dropped()));
    const ProcessFigures figures = ReadProcess();
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    const auto seconds = [](const timeval& time) {
      return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    };
    add(MetricType::Counter, "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.",
        seconds(used.ru_utime) + seconds(used.ru_stime));
    add(MetricType::Gauge, "process_open_fds", "Number of open file descriptors.", OpenFiles());
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    add(MetricType::Gauge, "process_max_fds", "Maximum number of open file descriptors.",
        static_cast<double>(limit.rlim_cur));
    add(MetricType::Gauge, "process_virtual_memory_bytes", "Virtual memory size in bytes.",
        figures.virtual_bytes);
    add(MetricType::Gauge, "process_resident_memory_bytes", "Resident memory size in bytes.",
        figures.resident_bytes);
    add(MetricType::Gauge, "process_threads", "Number of OS threads in the process.", figures.threads);
    add(MetricType::Gauge, "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.", figures.start_seconds);
    return families;
  }

 private:
  const std::string program_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(
    const std::string& listen, bool allow_remote,
    std::vector<std::shared_ptr<prometheus::Collectable>> collected) {
  const size_t colon = listen.rfind(':');
  int port = -1;
  if (colon == std::string::npos || !absl::SimpleAtoi(listen.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("--metrics-listen '", listen, "': host:port is wanted"));
  }
  std::string host = listen.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  // civetweb takes addresses, and would take several of them, and options, in one string.
  const std::string address_characters = "0123456789abcdefABCDEF.:[]";
  if (host.empty() || host.find_first_not_of(address_characters) != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics-listen '", listen, "': an IP address is wanted, as in 127.0.0.1:9464"));
  }
  if (!allow_remote && host != "[::1]" && host.rfind("127.", 0) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics-listen '", listen,
                     "': metrics are served without encryption or authentication; other addresses than "
                     "loopback are listened",
                     " on with --insecure-metrics-anywhere"));
  }
  std::unique_ptr<MetricsEndpoint> endpoint(new MetricsEndpoint());
  endpoint->collected_ = std::move(collected);
  try {
    endpoint->exposer_ = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", absl::StrCat(host, ":", port), "num_threads", "2", "request_timeout_ms", "10000"});
    for (const auto& collectable : endpoint->collected_) endpoint->exposer_->RegisterCollectable(collectable);
    const std::vector<int> ports = endpoint->exposer_->GetListeningPorts();
    if (ports.empty()) throw std::runtime_error("no port");
    endpoint->port_ = ports.front();
  } catch (const std::exception&) {
    return absl::UnavailableError(absl::StrCat("cannot listen for metrics on ", listen,
                                               ": is the port taken, and the address of this machine?"));
  }
  return endpoint;
}

MetricsEndpoint::~MetricsEndpoint() = default;

std::shared_ptr<prometheus::Collectable> NewProcessMetrics(const std::string& program) {
  return std::make_shared<ProcessMetrics>(program);
}

prometheus::Counter& AddCounter(prometheus::Registry& registry, const std::string& name,
                                const std::string& help, const prometheus::Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
}

prometheus::Gauge& AddGauge(prometheus::Registry& registry, const std::string& name, const std::string& help,
                            const prometheus::Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(labels);
}

prometheus::Histogram& AddHistogram(prometheus::Registry& registry, const std::string& name,
                                    const std::string& help,
                                    const prometheus::Histogram::BucketBoundaries& bounds,
                                    const prometheus::Labels& labels) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels, bounds);
}

const prometheus::Histogram::BucketBoundaries& QuickSeconds() {
  static const auto& bounds = *new prometheus::Histogram::BucketBoundaries{
      0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
  return bounds;
}

const prometheus::Histogram::BucketBoundaries& LongSeconds() {
  static const auto& bounds =
      *new prometheus::Histogram::BucketBoundaries{0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600};
  return bounds;
}

}  // namespace assay
