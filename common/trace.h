// Traces: which stage of which job took how long, from the client's command to the test host, as
// OpenTelemetry has them. Contexts travel as W3C Trace Context ("traceparent") in requests, jobs and
// assignments; spans go to a collector as OTLP over HTTP in JSON (opentelemetry.io/docs/specs/otlp, 1.x),
// best effort: what the collector does not take in time is dropped and counted, and nobody waits for it.
//
// Off unless OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) is set; see docs/observability.md.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace assay {

// A span's place in its trace. A value; all zero where there is none.
struct TraceContext {
  std::array<uint8_t, 16> trace{};
  std::array<uint8_t, 8> span{};
  bool sampled = false;

  // "00-<32 hex>-<16 hex>-<2 hex>" (w3.org/TR/trace-context, version 00; later versions as it demands);
  // nullopt for anything else, the all-zero ids included. Whoever sends nonsense is simply not traced.
  static std::optional<TraceContext> Parse(absl::string_view traceparent);
  std::string Traceparent() const;

  // A new span of the same trace.
  TraceContext Child() const;
  // The span of the same trace that belongs to `key`: whoever computes it, now or later, here or in another
  // process, gets the same. So nobody has to keep what a span that is still open is called.
  TraceContext Derived(absl::string_view key) const;
};

enum class SpanKind { kInternal = 1, kServer = 2, kClient = 3 };  // numbers of the protocol

struct Span {
  TraceContext context;
  std::array<uint8_t, 8> parent{};  // all zero: the trace begins here
  std::string service;              // service.name: "assay-worker"
  std::string name;
  SpanKind kind = SpanKind::kInternal;
  absl::Time start;
  absl::Time end;
  std::vector<std::pair<std::string, std::string>> attributes;
  std::string error;  // what went wrong; empty: nothing did
};

struct TraceOptions {
  std::string url;     // http://host:4318/v1/traces; empty: off
  double sampled = 1;  // share of the traces that begin here; those that came in follow their parent
  std::vector<std::string> headers;               // "name: value", may be secret
  absl::Duration timeout = absl::Seconds(10);     // of one request
  absl::Duration retry_pause = absl::Seconds(1);  // doubled each time
  size_t max_queued = 4096;                       // spans

  // From OTEL_EXPORTER_OTLP_ENDPOINT, _TRACES_ENDPOINT, _HEADERS, _TIMEOUT, _PROTOCOL,
  // OTEL_TRACES_SAMPLER_ARG, OTEL_TRACES_SAMPLER, OTEL_SDK_DISABLED. INVALID_ARGUMENT names the variable; no
  // value that may be secret is told.
  static absl::StatusOr<TraceOptions> FromEnvironment();
};

// Thread-safe.
class Tracer {
 public:
  explicit Tracer(TraceOptions options);
  ~Tracer();  // gives up what was not sent
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // The process's own; off until Start. Lives for ever.
  static Tracer& Global();
  // Makes the global one what the environment says. An error leaves it off. Call once, before any other
  // thread.
  static absl::Status StartGlobal();

  bool on() const { return !options_.url.empty(); }

  // The beginning of a trace, sampled or not; not sampled where this is off.
  TraceContext Begin() const;

  // To the queue; dropped and counted where it is full. Nothing where this is off or the span is not sampled.
  void Record(Span span) ABSL_LOCKS_EXCLUDED(mutex_);

  // Until what was recorded has been sent or given up, at most `limit`: for programs that are about to end.
  void Flush(absl::Duration limit) ABSL_LOCKS_EXCLUDED(mutex_);

  uint64_t exported() const { return exported_; }
  uint64_t dropped() const { return dropped_; }

 private:
  void Loop() ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether the collector took it; `retry`: it may take it later.
  bool Send(const std::string& body, bool& retry);

  const TraceOptions options_;
  std::atomic<uint64_t> exported_ = 0;
  std::atomic<uint64_t> dropped_ = 0;
  absl::Mutex mutex_;
  std::vector<Span> queue_ ABSL_GUARDED_BY(mutex_);
  size_t sending_ ABSL_GUARDED_BY(mutex_) = 0;
  bool flushing_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool warned_ = false;  // of the loop
  std::thread thread_;
};

// OTLP's JSON for these spans, grouped by service. For tests and the exporter.
std::string OtlpJson(const std::vector<Span>& spans);

}  // namespace assay
