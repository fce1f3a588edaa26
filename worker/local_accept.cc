#include "worker/local_accept.h"

#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/id.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "generator/catalogue.h"
#include "generator/templates.h"
#include "worker/acceptance.h"
#include "worker/attempt_runner.h"
#include "worker/blob_cache.h"
#include "worker/state_folder.h"

namespace assay::worker {
namespace {

namespace fs = std::filesystem;

// Templates, entries and programs of the models chosen, by digest, as a coordinator would serve them.
class LocalContent {
 public:
  static absl::StatusOr<LocalContent> Load(const fs::path& dir, std::vector<std::string> models) {
    LocalContent content;
    ASSAY_ASSIGN_OR_RETURN(const auto templates, generator::LoadTemplates(dir / "templates"));
    ASSAY_ASSIGN_OR_RETURN(const auto catalogue, generator::LoadCatalogue(dir / "models/catalogue"));
    const auto program_of = [&dir](const std::string& name) {
      return dir / "models/programs" / (name + ".assay");
    };
    if (models.empty()) {
      std::set<std::string> types;
      for (const auto& [name, entry] : catalogue) {
        std::error_code error;
        if (fs::exists(program_of(name), error) && types.insert(entry.arch_type()).second)
          models.push_back(name);
      }
    }
    for (const std::string& model : models) {
      const auto entry = catalogue.find(model);
      if (entry == catalogue.end()) {
        return absl::NotFoundError(
            absl::StrCat("model ", model, " is not in ", (dir / "models/catalogue").string()));
      }
      const auto resolved = templates.find(entry->second.template_());
      if (resolved == templates.end()) {
        return absl::NotFoundError(absl::StrCat("there is no template ", entry->second.template_()));
      }
      v1::Assignment& test = *content.request_.add_test();
      test.mutable_model()->set_name(model);
      test.mutable_model()->set_arch_type(entry->second.arch_type());
      test.mutable_model()->set_template_(entry->second.template_());
      test.mutable_model()->set_task(entry->second.task());
      test.set_template_digest(content.Keep(FormatTextProto(resolved->second)));
      ASSAY_ASSIGN_OR_RETURN(std::string text, ReadFile(dir / "models/catalogue" / (model + ".textproto")));
      test.set_catalogue_digest(content.Keep(std::move(text)));
      ASSAY_ASSIGN_OR_RETURN(std::string program, ReadFile(program_of(model)));
      test.set_program_digest(content.Keep(std::move(program)));
    }
    return content;
  }

  absl::Status Send(const std::vector<std::string>& digests, BlobReceiver& receiver) const {
    for (const std::string& digest : digests) {
      const auto at = blobs_.find(digest);
      if (at == blobs_.end()) return absl::NotFoundError(digest);
      ASSAY_RETURN_IF_ERROR(receiver.Begin(digest, at->second.size()));
      ASSAY_RETURN_IF_ERROR(receiver.Append(at->second));
    }
    return absl::OkStatus();
  }

  const v1::AcceptanceRequest& request() const { return request_; }

 private:
  std::string Keep(std::string bytes) {
    std::string digest = Sha256Hex(bytes);
    blobs_.try_emplace(digest, std::move(bytes));
    return digest;
  }

  std::map<std::string, std::string> blobs_;
  v1::AcceptanceRequest request_;
};

// Nothing of a sweep is an attempt, so that nothing comes here.
class NoListener final : public AttemptListener {
 public:
  void AttemptProgressed(const v1::AttemptEvent&) override {}
  void AttemptFinished(SpooledResult) override {}
  bool IsFinished(const AttemptKey&) override { return false; }
  void CapacityChanged() override {}
  bool AwaitCoordinator(absl::Time) override { return false; }
};

}  // namespace

absl::StatusOr<v1::AcceptanceReport> AcceptLocally(const LocalAcceptOptions& options) {
  AgentOptions agent = options.agent;
  MakePathsAbsolute(agent);
  ASSAY_ASSIGN_OR_RETURN(const Fd lock, LockFolder(agent.state_dir));
  ASSAY_ASSIGN_OR_RETURN(const LocalContent content, LocalContent::Load(options.content, options.models));
  ASSAY_ASSIGN_OR_RETURN(
      const std::unique_ptr<BlobCache> cache,
      BlobCache::Open(agent.state_dir / "blobs", agent.cache_bytes,
                      [&content](const std::vector<std::string>& digests, BlobReceiver& receiver) {
                        return content.Send(digests, receiver);
                      }));
  NoListener listener;
  absl::Mutex mutex;
  std::optional<v1::AcceptanceReport> report;
  std::unique_ptr<AttemptRunner> runner;
  Acceptance acceptance(
      agent.state_dir / "acceptance.textproto",
      [&runner](v1::Assignment test, std::function<void(v1::TestResult)> done) {
        runner->RunApart(std::move(test), std::move(done));
      },
      [&mutex, &report](const v1::AcceptanceReport& ended) {
        absl::MutexLock locked(&mutex);
        report = ended;
      });
  ASSAY_ASSIGN_OR_RETURN(runner, AttemptRunner::Start(agent, cache.get(), nullptr, &listener));
  v1::AcceptanceRequest request = content.request();
  request.set_id(absl::StrCat("local-", NewUuid()));
  request.set_repetitions(options.repetitions);
  acceptance.Sweep(request, runner->DeviceInfos());
  {
    absl::MutexLock locked(&mutex);
    auto ended = [&report] { return report.has_value(); };
    mutex.Await(absl::Condition(&ended));
  }
  runner->Stop();  // its threads call what goes next
  return *report;
}

}  // namespace assay::worker
