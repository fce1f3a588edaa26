// Traces, metrics and log lines.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/build_info.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/trace.h"
#include "nlohmann/json.hpp"
#include "prometheus/counter.h"
#include "tests/matchers.h"

namespace assay {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kParent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContext, GoesThroughText) {
  const auto context = TraceContext::Parse(kParent);
  ASSERT_TRUE(context.has_value());
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(context->Traceparent(), kParent);
  EXPECT_FALSE(TraceContext::Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")->sampled);
  // A later version may have more fields.
  EXPECT_TRUE(TraceContext::Parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x").has_value());
}

TEST(TraceContext, RefusesWhatIsNone) {
  for (const char* text : {"", "00", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
                           "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                           "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                           "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
                           "00-0af7651916cd43dd8448eb211c80319cb7ad6b7169203331-01--"}) {
    EXPECT_FALSE(TraceContext::Parse(text).has_value()) << text;
  }
}

TEST(TraceContext, DerivesTheSameForEverybody) {
  const TraceContext parent = *TraceContext::Parse(kParent);
  EXPECT_EQ(parent.Derived("attempt 1").Traceparent(), parent.Derived("attempt 1").Traceparent());
  EXPECT_NE(parent.Derived("attempt 1").span, parent.Derived("attempt 2").span);
  EXPECT_EQ(parent.Derived("attempt 1").trace, parent.trace);
  EXPECT_NE(parent.Child().span, parent.Child().span);
}

class Environment {
 public:
  explicit Environment(std::vector<std::pair<const char*, const char*>> set) : set_(std::move(set)) {
    for (const auto& [name, value] : set_) setenv(name, value, 1);
  }
  ~Environment() {
    for (const auto& [name, value] : set_) unsetenv(name);
  }

 private:
  const std::vector<std::pair<const char*, const char*>> set_;
};

TEST(TraceOptions, ComeFromTheEnvironment) {
  EXPECT_TRUE(TraceOptions::FromEnvironment()->url.empty());
  {
    Environment set({{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"},
                     {"OTEL_EXPORTER_OTLP_HEADERS", "a=1%2C2, b = x"},
                     {"OTEL_TRACES_SAMPLER_ARG", "0.25"},
                     {"OTEL_EXPORTER_OTLP_TIMEOUT", "250"}});
    const auto options = TraceOptions::FromEnvironment();
    ASSERT_THAT(options, IsOk());
    EXPECT_EQ(options->url, "http://localhost:4318/v1/traces");
    EXPECT_EQ(options->headers, (std::vector<std::string>{"a: 1,2", "b: x"}));
    EXPECT_EQ(options->sampled, 0.25);
    EXPECT_EQ(options->timeout, absl::Milliseconds(250));
  }
  for (const auto& [name, value] : std::vector<std::pair<const char*, const char*>>{
           {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "localhost:4317"},
           {"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"},
           {"OTEL_TRACES_SAMPLER", "jaeger_remote"},
           {"OTEL_TRACES_SAMPLER_ARG", "2"},
           {"OTEL_EXPORTER_OTLP_TIMEOUT", "soon"},
           {"OTEL_EXPORTER_OTLP_HEADERS", "a=1%0D%0Ab: 2"}}) {
    Environment set({{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"}, {name, value}});
    EXPECT_THAT(TraceOptions::FromEnvironment(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(name)));
  }
  Environment secret(
      {{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"}, {"OTEL_EXPORTER_OTLP_HEADERS", "canary"}});
  EXPECT_THAT(TraceOptions::FromEnvironment(),
              StatusIs(absl::StatusCode::kInvalidArgument, Not(HasSubstr("canary"))));
}

// A collector that takes connections and never answers; or, closed at once, none.
class SilentPort {
 public:
  SilentPort() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address));
    listen(fd_, 16);
    socklen_t size = sizeof(address);
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  ~SilentPort() { close(fd_); }
  std::string url() const { return absl::StrCat("http://127.0.0.1:", port_, "/v1/traces"); }

 private:
  const int fd_;
  int port_ = 0;
};

Span SpanOf(const TraceContext& context) {
  Span span;
  span.context = context;
  span.service = "test";
  span.name = "fetch";
  span.start = span.end = absl::Now();
  return span;
}

TEST(Tracer, NobodyWaitsForACollectorThatHangs) {
  SilentPort collector;
  TraceOptions options;
  options.url = collector.url();
  options.max_queued = 8;
  options.timeout = absl::Minutes(10);
  Tracer tracer(options);
  const TraceContext context = tracer.Begin();
  ASSERT_TRUE(context.sampled);
  // At most one batch is on its way and eight spans wait: the others are dropped, and told of.
  for (int i = 0; i < 2000; ++i) tracer.Record(SpanOf(context));
  EXPECT_GE(tracer.dropped(), 2000u - 8 - 512);
  EXPECT_EQ(tracer.exported(), 0u);
  tracer.Flush(absl::Milliseconds(1));
}  // stops in the middle of the request

TEST(Tracer, CountsWhatNobodyTakes) {
  TraceOptions options;
  {
    SilentPort gone;
    options.url = gone.url();
  }
  options.retry_pause = absl::Milliseconds(1);
  Tracer tracer(options);
  tracer.Record(SpanOf(tracer.Begin()));
  tracer.Flush(absl::Minutes(1));
  EXPECT_EQ(tracer.dropped(), 1u);
  EXPECT_EQ(tracer.exported(), 0u);
}

TEST(Tracer, SamplesAShareAndNothingWhereItIsOff) {
  EXPECT_FALSE(Tracer(TraceOptions()).Begin().sampled);
  SilentPort collector;
  TraceOptions options;
  options.url = collector.url();
  options.sampled = 0.25;
  Tracer tracer(options);
  int sampled = 0;
  for (int i = 0; i < 4000; ++i) sampled += tracer.Begin().sampled ? 1 : 0;
  EXPECT_NEAR(sampled, 1000, 150);
  TraceContext context = tracer.Begin();
  context.sampled = false;
  tracer.Record(SpanOf(context));
  tracer.Flush(absl::Minutes(1));
  EXPECT_EQ(tracer.exported() + tracer.dropped(), 0u);
}

TEST(OtlpJson, IsAsTheSpecificationHasIt) {
  Span span = SpanOf(*TraceContext::Parse(kParent));
  span.start = absl::FromUnixNanos(1'700'000'000'000'000'001);
  span.end = span.start + absl::Nanoseconds(5);
  span.attributes = {{"assay.model", "bert \xff\""}};
  span.error = "FAILED";
  const auto json = nlohmann::json::parse(OtlpJson({span}));
  const auto& resource = json["resourceSpans"][0];
  EXPECT_EQ(resource["resource"]["attributes"][0]["value"]["stringValue"], "test");
  const auto& out = resource["scopeSpans"][0]["spans"][0];
  EXPECT_EQ(out["traceId"], "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(out["spanId"], "b7ad6b7169203331");
  EXPECT_FALSE(out.contains("parentSpanId"));
  EXPECT_EQ(out["startTimeUnixNano"], "1700000000000000001");
  EXPECT_EQ(out["endTimeUnixNano"], "1700000000000000006");
  EXPECT_EQ(out["attributes"][0]["value"]["stringValue"], "bert \"");
  EXPECT_EQ(out["status"]["code"], 2);
}

TEST(Metrics, AreServed) {
  auto registry = std::make_shared<prometheus::Registry>();
  AddCounter(*registry, "assay_test_total", "A test", {{"kind", "a"}}).Increment(3);
  auto endpoint = MetricsEndpoint::Start("127.0.0.1:0", false, {registry, NewProcessMetrics("test")});
  ASSERT_THAT(endpoint, IsOk());
  EXPECT_GT((*endpoint)->port(), 0);
  auto taken = MetricsEndpoint::Start(absl::StrCat("127.0.0.1:", (*endpoint)->port()), false, {registry});
  EXPECT_THAT(taken, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("port")));
}

TEST(Metrics, RefuseBadAddresses) {
  for (const char* listen : {"", "9464", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "host.example:1",
                             "127.0.0.1:1,0.0.0.0:2", ":9464"}) {
    EXPECT_THAT(MetricsEndpoint::Start(listen, true, {}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--metrics-listen")))
        << listen;
  }
  EXPECT_THAT(MetricsEndpoint::Start("0.0.0.0:0", false, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--insecure-metrics-anywhere")));
  EXPECT_THAT(MetricsEndpoint::Start("0.0.0.0:0", true, {}), IsOk());
}

std::string Logged(const std::string& format, const std::function<void()>& log) {
  ::testing::internal::CaptureStderr();
  EXPECT_THAT(StartLogging("assay-test", "info", format), IsOk());
  log();
  spdlog::default_logger()->flush();
  return ::testing::internal::GetCapturedStderr();
}

TEST(Logging, JsonHoldsWhateverIsLogged) {
  const std::string text = Logged("json", [] {
    LogScope outer({{"batch", "b1"}, {"job", "outer"}, {"empty", ""}});
    LogWith(spdlog::level::warn, {{"job", "b1.\"x\"\n"}, {"attempt", "2"}},
            "a \"quoted\" \\ line\n\x01 \xff and {}", 3);
    spdlog::info("after");
    spdlog::debug("too small to be logged");
  });
  const size_t end = text.find('\n');
  const auto first = nlohmann::json::parse(text.substr(0, end));
  EXPECT_EQ(first["level"], "warning");
  EXPECT_EQ(first["program"], "assay-test");
  EXPECT_EQ(first["message"], "a \"quoted\" \\ line\n\x01 \uFFFD and 3");
  EXPECT_EQ(first["batch"], "b1");
  EXPECT_EQ(first["job"], "b1.\"x\"\n");
  EXPECT_EQ(first["attempt"], "2");
  EXPECT_FALSE(first.contains("empty"));
  const auto second = nlohmann::json::parse(text.substr(end + 1));
  EXPECT_EQ(second["job"], "outer");
  EXPECT_FALSE(second.contains("attempt"));
}

TEST(Logging, TextHasTheFieldsBehindTheMessage) {
  const std::string text = Logged("text", [] {
    LogWith(spdlog::level::info, {{"job", "b1.bert"}, {"reason", "a b=c"}}, "not counted");
  });
  EXPECT_THAT(text, HasSubstr("assay-test info not counted job=b1.bert reason=\"a b=c\"\n"));
}

TEST(Logging, RefusesAFormat) {
  EXPECT_THAT(StartLogging("assay-test", "info", "xml"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("xml")));
}

TEST(BuildInfo, NamesTheVersion) {
  EXPECT_THAT(VersionLine("assay"), HasSubstr(absl::StrCat("assay ", BuildVersion(), " (")));
}

}  // namespace
}  // namespace assay
