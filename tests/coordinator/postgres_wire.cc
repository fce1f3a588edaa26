#include "tests/coordinator/postgres_wire.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/id.h"
#include "gtest/gtest.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return address;
}

bool WriteAll(int fd, const char* data, ssize_t size) {
  while (size > 0) {
    const ssize_t sent = send(fd, data, static_cast<size_t>(size), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    data += sent;
    size -= sent;
  }
  return true;
}

}  // namespace

PostgresWire::PostgresWire(const std::string& server)
    : server_(server), folder_(absl::StrCat("/tmp/assay-wire-", NewUuid().substr(0, 8))) {
  fs::create_directories(folder_);
  const sockaddr_un address = AddressOf(folder_ + "/.s.PGSQL.5432");
  listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(listener_, 8), 0);
  EXPECT_EQ(pipe(stop_), 0);
  thread_ = std::thread([this] { Serve(); });
}

PostgresWire::~PostgresWire() {
  close(stop_[1]);
  thread_.join();
  close(stop_[0]);
  close(listener_);
  fs::remove_all(folder_);
}

void PostgresWire::Arm(Cut cut, bool closed) {
  absl::MutexLock lock(&mutex_);
  cut_ = cut;
  close_ = closed;
}

void PostgresWire::Open() {
  absl::MutexLock lock(&mutex_);
  closed_ = false;
}

void PostgresWire::Serve() {
  while (true) {
    pollfd waiting[2] = {{listener_, POLLIN, 0}, {stop_[0], POLLIN, 0}};
    poll(waiting, 2, -1);
    if (waiting[1].revents != 0) return;
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_un address = AddressOf(server_);
    bool closed;
    {
      absl::MutexLock lock(&mutex_);
      closed = closed_;
    }
    if (!closed && connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      Pass(client, server);
    }
    close(client);
    close(server);
  }
}

void PostgresWire::Pass(int client, int server) {
  char buffer[1 << 16];
  while (true) {
    pollfd waiting[3] = {{client, POLLIN, 0}, {server, POLLIN, 0}, {stop_[0], POLLIN, 0}};
    poll(waiting, 3, -1);
    if (waiting[2].revents != 0) return;
    for (int from : {0, 1}) {
      if (waiting[from].revents == 0) continue;
      const ssize_t got = recv(waiting[from].fd, buffer, sizeof(buffer), 0);
      if (got <= 0) return;
      {
        absl::MutexLock lock(&mutex_);
        const Cut here = from == 0 ? Cut::kBeforeTheServer : Cut::kBeforeTheClient;
        if (cut_ == here) {
          cut_ = Cut::kNowhere;
          closed_ = close_;
          return;
        }
      }
      if (!WriteAll(from == 0 ? server : client, buffer, got)) return;
    }
  }
}

}  // namespace assay::coordinator
