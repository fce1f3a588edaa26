#include "common/trace.h"

#include <curl/curl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>

#include "absl/random/random.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/build_info.h"
#include "common/digest.h"
#include "common/logging.h"
#include "common/utf8.h"
#include "nlohmann/json.hpp"

namespace assay {
namespace {

using nlohmann::json;

// Of one request to the collector.
constexpr size_t kMaxBatch = 512;
// How long a span may wait for others before it is sent.
constexpr absl::Duration kGather = absl::Milliseconds(500);
constexpr int kRetries = 3;
constexpr size_t kMaxValueBytes = 1024;

template <size_t N>
std::string Hex(const std::array<uint8_t, N>& bytes) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

template <size_t N>
bool FromHex(absl::string_view text, std::array<uint8_t, N>& bytes) {
  const auto lower = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (text.size() != 2 * N || !std::all_of(text.begin(), text.end(), lower)) return false;
  const std::string raw = absl::HexStringToBytes(text);
  std::memcpy(bytes.data(), raw.data(), N);
  return bytes != std::array<uint8_t, N>{};
}

template <size_t N>
void Randomise(std::array<uint8_t, N>& bytes) {
  thread_local absl::BitGen random;
  do {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(absl::Uniform<uint32_t>(random, 0, 256));
  } while (bytes == std::array<uint8_t, N>{});
}

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : std::string(absl::StripAsciiWhitespace(value));
}

// At most so many bytes, cut between characters; what is no UTF-8 is left out.
std::string Clean(absl::string_view text) {
  std::string clean;
  while (!text.empty() && clean.size() < kMaxValueBytes) {
    const size_t bytes = FirstCharacter(text).bytes;
    if (bytes > 0) absl::StrAppend(&clean, text.substr(0, bytes));
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  return clean;
}

json Attribute(absl::string_view key, absl::string_view value) {
  return {{"key", Clean(key)}, {"value", {{"stringValue", Clean(value)}}}};
}

json JsonOf(const Span& span) {
  json out = {{"traceId", Hex(span.context.trace)},
              {"spanId", Hex(span.context.span)},
              {"name", Clean(span.name)},
              {"kind", static_cast<int>(span.kind)},
              {"startTimeUnixNano", absl::StrCat(absl::ToUnixNanos(span.start))},
              {"endTimeUnixNano", absl::StrCat(absl::ToUnixNanos(std::max(span.start, span.end)))}};
  if (span.parent != std::array<uint8_t, 8>{}) out["parentSpanId"] = Hex(span.parent);
  json attributes = json::array();
  for (const auto& [key, value] : span.attributes) attributes.push_back(Attribute(key, value));
  if (!attributes.empty()) out["attributes"] = std::move(attributes);
  if (!span.error.empty()) out["status"] = {{"code", 2}, {"message", Clean(span.error)}};
  return out;
}

size_t DropBody(char*, size_t size, size_t count, void*) { return size * count; }

}  // namespace

std::optional<TraceContext> TraceContext::Parse(absl::string_view traceparent) {
  const std::vector<absl::string_view> parts = absl::StrSplit(traceparent, '-');
  std::array<uint8_t, 1> version{}, flags{};
  TraceContext context;
  // FromHex refuses zero, which versions and flags may be.
  const bool version_ok = parts.size() >= 4 && (parts[0] == "00" || FromHex(parts[0], version));
  if (!version_ok || parts[0] == "ff" || (parts[0] == "00" && parts.size() != 4)) return std::nullopt;
  if (!FromHex(parts[1], context.trace) || !FromHex(parts[2], context.span)) return std::nullopt;
  if (parts[3] != "00" && !FromHex(parts[3], flags)) return std::nullopt;
  context.sampled = (flags[0] & 1) != 0;
  return context;
}

std::string TraceContext::Traceparent() const {
  return absl::StrCat("00-", Hex(trace), "-", Hex(span), sampled ? "-01" : "-00");
}

TraceContext TraceContext::Child() const {
  TraceContext child = *this;
  Randomise(child.span);
  return child;
}

TraceContext TraceContext::Derived(absl::string_view key) const {
  TraceContext derived = *this;
  Sha256 digest;
  digest.Update(Traceparent().substr(0, 52));  // not the flags
  digest.Update(key);
  const std::string bytes = absl::HexStringToBytes(digest.FinishHex());
  std::memcpy(derived.span.data(), bytes.data(), derived.span.size());
  return derived;
}

absl::StatusOr<TraceOptions> TraceOptions::FromEnvironment() {
  TraceOptions options;
  if (Variable("OTEL_SDK_DISABLED") == "true") return options;
  std::string url = Variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
  const char* named = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
  if (url.empty()) {
    named = "OTEL_EXPORTER_OTLP_ENDPOINT";
    url = Variable(named);
    if (url.empty()) return options;
    if (url.back() != '/') url += '/';
    url += "v1/traces";
  }
  if (url.rfind("http://", 0) != 0 && url.rfind("https://", 0) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(named, ": http://host:4318 is wanted"));
  }
  for (const char* variable : {"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"}) {
    const std::string protocol = Variable(variable);
    // A collector that takes protobuf over HTTP takes JSON at the same address.
    if (!protocol.empty() && protocol != "http/json" && protocol != "http/protobuf") {
      return absl::InvalidArgumentError(absl::StrCat(
          variable, ": '", protocol, "' is not spoken here, only http/json (port 4318 by custom)"));
    }
  }
  const std::string sampler = Variable("OTEL_TRACES_SAMPLER");
  const std::string share = Variable("OTEL_TRACES_SAMPLER_ARG");
  if (sampler == "always_off" || sampler == "parentbased_always_off") {
    options.sampled = 0;
  } else if (sampler.empty() || sampler == "traceidratio" || sampler == "parentbased_traceidratio") {
    if (!share.empty() &&
        (!absl::SimpleAtod(share, &options.sampled) || !(options.sampled >= 0 && options.sampled <= 1))) {
      return absl::InvalidArgumentError(
          absl::StrCat("OTEL_TRACES_SAMPLER_ARG: '", share, "' is not a share from 0 to 1"));
    }
  } else if (sampler != "always_on" && sampler != "parentbased_always_on") {
    return absl::InvalidArgumentError(absl::StrCat("OTEL_TRACES_SAMPLER: '", sampler, "' is not known here"));
  }
  std::string headers = Variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS");
  if (headers.empty()) headers = Variable("OTEL_EXPORTER_OTLP_HEADERS");
  for (absl::string_view header : absl::StrSplit(headers, ',', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(header, absl::MaxSplits('=', 1));
    const absl::string_view name = absl::StripAsciiWhitespace(parts.first);
    const bool broken = header.find_first_of("\r\n") != absl::string_view::npos;
    if (name.empty() || header.find('=') == absl::string_view::npos || broken) {
      return absl::InvalidArgumentError("OTEL_EXPORTER_OTLP_HEADERS: name=value[,name=value] is wanted");
    }
    // The values are percent-encoded.
    std::string value;
    absl::string_view rest = absl::StripAsciiWhitespace(parts.second);
    while (!rest.empty()) {
      if (rest[0] == '%' && rest.size() >= 3 && std::isxdigit(static_cast<unsigned char>(rest[1])) &&
          std::isxdigit(static_cast<unsigned char>(rest[2]))) {
        value += absl::HexStringToBytes(rest.substr(1, 2));
        rest.remove_prefix(3);
      } else {
        value += rest[0];
        rest.remove_prefix(1);
      }
    }
    if (value.find_first_of("\r\n") != std::string::npos) {
      return absl::InvalidArgumentError("OTEL_EXPORTER_OTLP_HEADERS: a value has a line break in it");
    }
    options.headers.push_back(absl::StrCat(name, ": ", value));
  }
  if (const std::string timeout = Variable("OTEL_EXPORTER_OTLP_TIMEOUT"); !timeout.empty()) {
    int64_t milliseconds = 0;
    if (!absl::SimpleAtoi(timeout, &milliseconds) || milliseconds <= 0) {
      return absl::InvalidArgumentError("OTEL_EXPORTER_OTLP_TIMEOUT: milliseconds are wanted");
    }
    options.timeout = absl::Milliseconds(milliseconds);
  }
  options.url = url;
  return options;
}

std::string OtlpJson(const std::vector<Span>& spans) {
  std::map<std::string, json> services;
  for (const Span& span : spans) services[span.service].push_back(JsonOf(span));
  json resources = json::array();
  for (auto& [service, of_service] : services) {
    json attributes = {Attribute("service.name", service), Attribute("service.version", BuildVersion())};
    json scope = {{"scope", {{"name", "assay"}, {"version", BuildVersion()}}},
                  {"spans", std::move(of_service)}};
    resources.push_back({{"resource", {{"attributes", std::move(attributes)}}},
                         {"scopeSpans", json::array({std::move(scope)})}});
  }
  return json{{"resourceSpans", std::move(resources)}}.dump();
}

namespace {

std::unique_ptr<Tracer>& GlobalTracer() {
  static auto& tracer = *new std::unique_ptr<Tracer>(std::make_unique<Tracer>(TraceOptions()));
  return tracer;
}

}  // namespace

Tracer& Tracer::Global() { return *GlobalTracer(); }

absl::Status Tracer::StartGlobal() {
  absl::StatusOr<TraceOptions> options = TraceOptions::FromEnvironment();
  if (!options.ok()) return options.status();
  if (!options->url.empty()) GlobalTracer() = std::make_unique<Tracer>(*std::move(options));
  return absl::OkStatus();
}

Tracer::Tracer(TraceOptions options) : options_(std::move(options)) {
  if (!on()) return;
  curl_global_init(CURL_GLOBAL_DEFAULT);
  thread_ = std::thread([this] { Loop(); });
}

Tracer::~Tracer() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

TraceContext Tracer::Begin() const {
  TraceContext context;
  Randomise(context.trace);
  Randomise(context.span);
  // By the id's last 56 bits, as the specification's ratio sampler has them at random.
  uint64_t low = 0;
  for (size_t i = 9; i < 16; ++i) low = low << 8 | context.trace[i];
  context.sampled =
      on() && (options_.sampled >= 1 ||
               static_cast<double>(low) < options_.sampled * static_cast<double>(uint64_t{1} << 56));
  return context;
}

void Tracer::Record(Span span) {
  if (!on() || !span.context.sampled) return;
  absl::MutexLock lock(&mutex_);
  if (stopping_ || queue_.size() >= options_.max_queued) {
    ++dropped_;
    return;
  }
  queue_.push_back(std::move(span));
}

void Tracer::Flush(absl::Duration limit) {
  if (!on()) return;
  absl::MutexLock lock(&mutex_);
  flushing_ = true;
  auto sent = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return queue_.empty() && sending_ == 0; };
  mutex_.AwaitWithTimeout(absl::Condition(&sent), limit);
  flushing_ = false;
}

void Tracer::Loop() {
  while (true) {
    std::vector<Span> batch;
    {
      absl::MutexLock lock(&mutex_);
      auto some = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !queue_.empty(); };
      mutex_.Await(absl::Condition(&some));
      auto enough = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || flushing_ || queue_.size() >= kMaxBatch;
      };
      mutex_.AwaitWithTimeout(absl::Condition(&enough), kGather);
      if (stopping_) {
        dropped_ += queue_.size();
        queue_.clear();
        return;
      }
      const size_t taken = std::min(queue_.size(), kMaxBatch);
      batch.assign(std::make_move_iterator(queue_.begin()), std::make_move_iterator(queue_.begin() + taken));
      queue_.erase(queue_.begin(), queue_.begin() + taken);
      sending_ = taken;
    }
    const std::string body = OtlpJson(batch);
    bool taken = false, retry = true;
    absl::Duration pause = options_.retry_pause;
    for (int i = 0; !taken && retry && i <= kRetries; ++i) {
      if (i > 0) {
        absl::MutexLock lock(&mutex_);
        if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), pause)) break;
        pause *= 2;
      }
      taken = Send(body, retry);
    }
    (taken ? exported_ : dropped_) += batch.size();
    if (!taken && !std::exchange(warned_, true)) {
      spdlog::warn("the trace collector does not take spans: they are dropped and counted until it does");
    }
    if (taken) warned_ = false;
    absl::MutexLock lock(&mutex_);
    sending_ = 0;
  }
}

bool Tracer::Send(const std::string& body, bool& retry) {
  retry = false;
  CURL* curl = curl_easy_init();
  if (curl == nullptr) return false;
  curl_slist* headers = curl_slist_append(nullptr, "Content-Type: application/json");
  for (const std::string& header : options_.headers) headers = curl_slist_append(headers, header.c_str());
  curl_easy_setopt(curl, CURLOPT_URL, options_.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.c_str());
  curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, static_cast<long>(absl::ToInt64Milliseconds(options_.timeout)));
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, DropBody);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  // Stopping does not wait for a collector that hangs.
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, this);
  curl_easy_setopt(
      curl, CURLOPT_XFERINFOFUNCTION, +[](void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) -> int {
        Tracer& tracer = *static_cast<Tracer*>(self);
        absl::MutexLock lock(&tracer.mutex_);
        return tracer.stopping_ ? 1 : 0;
      });
  const CURLcode code = curl_easy_perform(curl);
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  curl_slist_free_all(headers);
  curl_easy_cleanup(curl);
  retry = code != CURLE_OK || status == 429 || status == 502 || status == 503 || status == 504;
  return code == CURLE_OK && status >= 200 && status < 300;
}

}  // namespace assay
