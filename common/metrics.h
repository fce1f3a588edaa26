// What a process tells Prometheus: a registry behind HTTP, and what is the same for every program.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace prometheus {
class Exposer;
}

namespace assay {

// GET http://host:port/metrics, in Prometheus' text format. Nothing secret is to be put there: whoever
// reaches the port reads it. Thread-safe.
class MetricsEndpoint {
 public:
  // listen: IP address or "localhost", and a port, of which 0 takes any free one. allow_remote: it may be
  // other than loopback. INVALID_ARGUMENT for a bad address, UNAVAILABLE where it is taken.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(
      const std::string& listen, bool allow_remote,
      std::vector<std::shared_ptr<prometheus::Collectable>> collected);
  ~MetricsEndpoint();

  int port() const { return port_; }

 private:
  MetricsEndpoint() = default;
  std::vector<std::shared_ptr<prometheus::Collectable>> collected_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

// assay_build_info{program, version} 1, assay_trace_spans_exported_total and _dropped_total, and the process_
// metrics that Prometheus' own client libraries have (docs: "Standard and runtime collectors"). Thread-safe.
std::shared_ptr<prometheus::Collectable> NewProcessMetrics(const std::string& program);

// Of a family without labels beyond `labels`: made at once, so that it is served from the start, with 0.
prometheus::Counter& AddCounter(prometheus::Registry& registry, const std::string& name,
                                const std::string& help, const prometheus::Labels& labels = {});
prometheus::Gauge& AddGauge(prometheus::Registry& registry, const std::string& name, const std::string& help,
                            const prometheus::Labels& labels = {});
prometheus::Histogram& AddHistogram(prometheus::Registry& registry, const std::string& name,
                                    const std::string& help,
                                    const prometheus::Histogram::BucketBoundaries& bounds,
                                    const prometheus::Labels& labels = {});

// Bounds of histograms, in seconds: 1 ms to 10 s, and 10 ms to an hour.
const prometheus::Histogram::BucketBoundaries& QuickSeconds();
const prometheus::Histogram::BucketBoundaries& LongSeconds();

}  // namespace assay
