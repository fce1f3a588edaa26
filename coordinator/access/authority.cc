#include "coordinator/access/authority.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/id.h"
#include "common/status_macros.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;

TlsFolder FilesOf(const fs::path& folder) {
  return {folder / "ca.crt", folder / "ca.key", folder / "server.pem", folder / "admin.token"};
}

absl::Status WriteServer(const fs::path& file, const Authority& authority,
                         const std::vector<std::string>& hosts, absl::Time now, absl::Duration life) {
  ASSAY_ASSIGN_OR_RETURN(const std::string key, NewKeyPem());
  ASSAY_ASSIGN_OR_RETURN(const std::string certificate,
                         SignServer(authority, key, hosts, now - kClockLeeway, now + life));
  return WriteSecretFile(file, absl::StrCat(certificate, key));
}

}  // namespace

TlsFolder TlsFolderIn(const fs::path& data_dir) { return FilesOf(data_dir / "tls"); }

absl::Status MakeTlsFolder(const fs::path& data_dir, const std::vector<std::string>& hosts,
                           const std::string& admin_token, absl::Time now, absl::Duration server_life) {
  const fs::path folder = data_dir / "tls";
  const auto taken = [&folder] {
    return absl::FailedPreconditionError(
        absl::StrCat(folder.string(),
                     " is there already: assay-coordinator renew makes a new server certificate;"
                     " a new authority needs this folder moved away first"));
  };
  if (fs::exists(folder)) return taken();
  const fs::path beside = data_dir / absl::StrCat(".tls-", NewUuid());
  std::error_code error;
  fs::create_directories(data_dir, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat(data_dir.string(), ": ", error.message()));
  if (::mkdir(beside.c_str(), 0700) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", beside.string()));
  }
  absl::Cleanup remove = [&beside] {
    std::error_code ignored;
    fs::remove_all(beside, ignored);
  };
  const TlsFolder files = FilesOf(beside);
  Authority authority;
  ASSAY_ASSIGN_OR_RETURN(authority.key_pem, NewKeyPem());
  ASSAY_ASSIGN_OR_RETURN(authority.certificate_pem,
                         MakeAuthority(authority.key_pem, absl::StrCat("Assay ", NewUuid().substr(0, 8)),
                                       now - kClockLeeway, now + kAuthorityLife));
  ASSAY_RETURN_IF_ERROR(WriteSecretFile(files.authority_key, authority.key_pem));
  ASSAY_RETURN_IF_ERROR(WriteFileAtomically(files.authority, authority.certificate_pem, true));
  ASSAY_RETURN_IF_ERROR(WriteServer(files.server, authority, hosts, now, server_life));
  ASSAY_RETURN_IF_ERROR(WriteSecretFile(files.token, absl::StrCat(admin_token, "\n")));
  // A folder that has something in it is not replaced.
  if (::rename(beside.c_str(), folder.c_str()) != 0) {
    if (errno == ENOTEMPTY || errno == EEXIST) return taken();
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", folder.string()));
  }
  std::move(remove).Cancel();
  return absl::OkStatus();
}

absl::StatusOr<absl::Time> RenewServer(const fs::path& data_dir, std::vector<std::string> hosts,
                                       absl::Time now, absl::Duration server_life) {
  const TlsFolder files = TlsFolderIn(data_dir);
  ASSAY_ASSIGN_OR_RETURN(const Authority authority, LoadAuthority(data_dir));
  if (hosts.empty()) {
    ASSAY_ASSIGN_OR_RETURN(const std::string present, ReadFile(files.server));
    ASSAY_ASSIGN_OR_RETURN(const CertificateFacts facts, ReadCertificate(present));
    hosts = facts.hosts;
  }
  ASSAY_RETURN_IF_ERROR(WriteServer(files.server, authority, hosts, now, server_life));
  return now + server_life;
}

absl::StatusOr<Authority> LoadAuthority(const fs::path& data_dir) {
  const TlsFolder files = TlsFolderIn(data_dir);
  Authority authority;
  ASSAY_ASSIGN_OR_RETURN(authority.certificate_pem, ReadFile(files.authority));
  ASSAY_ASSIGN_OR_RETURN(authority.key_pem, ReadFile(files.authority_key));
  ASSAY_RETURN_IF_ERROR(CheckKeyFits(authority.certificate_pem, authority.key_pem));
  return authority;
}

}  // namespace assay::coordinator
