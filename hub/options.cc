#include <cstdlib>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "common/file.h"
#include "common/logging.h"
#include "hub/hub.h"

namespace assay::hub {

namespace fs = std::filesystem;

namespace {

// Empty counts as not set.
std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// As Python's _is_true: 1, ON, YES, TRUE in any case.
bool IsTrue(const std::string& value) {
  const std::string upper = absl::AsciiStrToUpper(value);
  return upper == "1" || upper == "ON" || upper == "YES" || upper == "TRUE";
}

// As os.path.expanduser and expandvars: "~" at the beginning, $NAME and ${NAME}; unknown names stay.
fs::path Expanded(const std::string& text) {
  std::string path = text;
  if (path == "~" || path.rfind("~/", 0) == 0) path = Variable("HOME") + path.substr(1);
  std::string expanded;
  for (size_t at = 0; at < path.size();) {
    if (path[at] != '$') {
      expanded += path[at++];
      continue;
    }
    const bool braces = at + 1 < path.size() && path[at + 1] == '{';
    const size_t begin = at + (braces ? 2 : 1);
    size_t end = begin;
    while (end < path.size() && (absl::ascii_isalnum(path[end]) || path[end] == '_')) ++end;
    const std::string name = path.substr(begin, end - begin);
    const bool closed = !braces || (end < path.size() && path[end] == '}');
    const char* value = name.empty() || !closed ? nullptr : std::getenv(name.c_str());
    const size_t next = end + (braces && closed ? 1 : 0);
    expanded += value != nullptr ? value : path.substr(at, next - at);
    at = next;
  }
  return expanded;
}

// A variable that names a folder; `otherwise` where it is not set.
fs::path Folder(const char* name, const fs::path& otherwise) {
  const std::string value = Variable(name);
  return value.empty() ? otherwise : Expanded(value);
}

absl::Duration Seconds(const char* name, absl::Duration otherwise) {
  int64_t seconds = 0;
  const std::string value = Variable(name);
  if (value.empty()) return otherwise;
  if (absl::SimpleAtoi(value, &seconds) && seconds > 0) return absl::Seconds(seconds);
  spdlog::warn("{}={} is no number of seconds: not heeded", name, value);
  return otherwise;
}

}  // namespace

HubOptions HubOptions::FromEnvironment() {
  HubOptions options;
  const fs::path home = Folder("HF_HOME", Folder("XDG_CACHE_HOME", Expanded("~/.cache")) / "huggingface");
  options.cache_dir = Folder("HF_HUB_CACHE", Folder("HUGGINGFACE_HUB_CACHE", home / "hub"));
  if (const std::string endpoint = Variable("HF_ENDPOINT"); !endpoint.empty()) {
    options.endpoint = endpoint;
    while (options.endpoint.ends_with('/')) options.endpoint.pop_back();
  }
  const std::string offline = Variable("HF_HUB_OFFLINE");
  options.offline = IsTrue(offline.empty() ? Variable("TRANSFORMERS_OFFLINE") : offline);
  if (!IsTrue(Variable("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) {
    options.token = Variable("HF_TOKEN");
    if (options.token.empty()) options.token = Variable("HUGGING_FACE_HUB_TOKEN");
    if (options.token.empty()) {
      const absl::StatusOr<std::string> text = ReadFile(Folder("HF_TOKEN_PATH", home / "token"), 1 << 16);
      if (text.ok()) options.token = *text;
    }
    options.token = std::string(absl::StripAsciiWhitespace(options.token));
  }
  options.metadata_timeout = Seconds("HF_HUB_ETAG_TIMEOUT", options.metadata_timeout);
  options.stall_timeout = Seconds("HF_HUB_DOWNLOAD_TIMEOUT", options.stall_timeout);
  for (const char* name : {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"}) {
    if (options.ca_bundle.empty()) options.ca_bundle = Variable(name);
  }
  return options;
}

}  // namespace assay::hub
