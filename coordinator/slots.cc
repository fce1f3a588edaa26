#include "coordinator/slots.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace assay::coordinator {
namespace {

constexpr char kCuda[] = "cuda";

bool LabelsAnExporter(const std::string& label) {
  return label == "exporter" || absl::StartsWith(label, "exporter=");
}

bool HasGpu(const WorkerView& worker) {
  return std::any_of(worker.devices.begin(), worker.devices.end(),
                     [](const DeviceView& device) { return device.cuda && device.slots > 0; });
}

bool Tried(const QueuedJob& job, const std::string& worker) {
  return std::find(job.tried.begin(), job.tried.end(), worker) != job.tried.end();
}

uint64_t SmallerKnown(uint64_t a, uint64_t b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

}  // namespace

WorkerView ViewOf(const std::string& name, uint32_t protocol,
                  const google::protobuf::RepeatedPtrField<std::string>& labels,
                  const google::protobuf::RepeatedPtrField<v1::DeviceSlots>& devices,
                  uint32_t ahead_per_slot) {
  WorkerView view;
  view.name = name;
  view.labels.assign(labels.begin(), labels.end());
  view.exporter = std::any_of(labels.begin(), labels.end(), LabelsAnExporter);
  for (const v1::DeviceSlots& slots : devices) {
    DeviceView device;
    device.cuda = slots.device().kind() == kCuda;
    device.slots = slots.slots();
    device.name = slots.device().name();
    device.largest = slots.memory_bytes() != 0 ? slots.memory_bytes() : slots.device().memory_bytes();
    if (protocol >= 2) {
      device.id = slots.device().id();
      device.memory = device.largest;
    }
    auto same = std::find_if(view.devices.begin(), view.devices.end(), [&](const DeviceView& other) {
      return device.id.empty() && other.id.empty() && other.cuda == device.cuda;
    });
    if (same == view.devices.end()) {
      view.devices.push_back(std::move(device));
      continue;
    }
    same->slots += device.slots;
    same->largest = SmallerKnown(same->largest, device.largest);
    same->memory = 0;
  }
  for (DeviceView& device : view.devices) {
    // A GPU whose memory is counted has none to hold for an attempt that does not run yet.
    device.ahead = device.cuda && device.memory > 0 ? 0 : device.slots * ahead_per_slot;
  }
  return view;
}

bool Carries(const WorkerView& worker, const DeviceView& device, const std::string& label) {
  bool names_gpu = false;
  for (const std::string& has : worker.labels) {
    if (has == label) return true;
    // "key" is met by a label "key=value" too.
    if (absl::StartsWith(has, label) && has.size() > label.size() && has[label.size()] == '=' &&
        label.find('=') == std::string::npos) {
      return true;
    }
    names_gpu |= absl::StartsWith(has, "gpu=");
  }
  absl::string_view word = label;
  if (names_gpu || !device.cuda || !absl::ConsumePrefix(&word, "gpu=")) return false;
  for (absl::string_view part : absl::StrSplit(device.name, absl::ByAnyChar(" -_/"), absl::SkipEmpty())) {
    if (absl::EqualsIgnoreCase(part, word)) return true;
  }
  return false;
}

bool CouldTake(const WorkerView& worker, const DeviceView& device, v1::DeviceChoice choice,
               bool needs_exporter, const Requirement& requirement) {
  if (device.slots == 0 || (needs_exporter && !worker.exporter)) return false;
  if (choice == v1::CUDA && !device.cuda) return false;
  if (choice == v1::CPU && device.cuda) return false;
  if (choice == v1::AUTO && !device.cuda && HasGpu(worker)) return false;
  const uint64_t needs = device.cuda ? requirement.gpu_memory : requirement.memory;
  if (device.largest > 0 && needs > 0 && !Suffices(device.largest, needs, requirement.predicted))
    return false;
  return std::all_of(requirement.selector.begin(), requirement.selector.end(),
                     [&](const std::string& label) { return Carries(worker, device, label); });
}

uint32_t Slots::Device::room_ahead() const {
  const uint32_t most = view->slots + view->ahead;
  return use.attempts < most ? std::min(most - use.attempts, view->ahead) : 0;
}

bool Slots::Entry::operator<(const Entry& other) const {
  if (exporter != other.exporter) return other.exporter;
  if (room != other.room) return room > other.room;
  if (device->worker != other.device->worker) return device->worker->name < other.device->worker->name;
  return device->index < other.device->index;
}

std::vector<Slots::Shelf*> Slots::ShelvesOf(const Device& device, Shelves& shelves) {
  if (device.view->cuda) return {&shelves.cuda};
  std::vector<Shelf*> found = {&shelves.cpu};
  if (!HasGpu(*device.worker)) found.push_back(&shelves.cpu_without_gpu);
  if (device.worker->exporter) found.push_back(&shelves.exporter_cpu);
  return found;
}

void Slots::Move(Device& device, Shelves& shelves, uint32_t from, uint32_t to) {
  if (from == to) return;
  const uint64_t key = device.view->cuda ? device.view->largest : 0;
  for (Shelf* shelf : ShelvesOf(device, shelves)) {
    std::set<Entry>& entries = (*shelf)[key];
    std::set<Entry>::node_type entry;
    if (from > 0) entry = entries.extract({device.worker->exporter, from, &device});
    if (to > 0 && entry.empty()) {
      entries.insert({device.worker->exporter, to, &device});
    } else if (to > 0) {
      entry.value().room = to;
      entries.insert(std::move(entry));
    }
    if (entries.empty()) shelf->erase(key);
  }
}

void Slots::Shelve(Device& device) {
  if (!device.worker->closed.empty()) return;
  total_ += device.view->slots;
  free_ += device.free();
  ahead_ += device.room_ahead();
  Move(device, now_, 0, device.free());
  Move(device, later_, 0, device.room_ahead());
}

void Slots::Unshelve(Device& device) {
  if (!device.worker->closed.empty()) return;
  total_ -= device.view->slots;
  free_ -= device.free();
  ahead_ -= device.room_ahead();
  Move(device, now_, device.free(), 0);
  Move(device, later_, device.room_ahead(), 0);
}

void Slots::Put(WorkerView worker) {
  const std::string name = worker.name;
  // What its attempts take is counted again, on the devices as they now are.
  std::vector<std::pair<std::string, Spot>> held;
  if (auto known = devices_.find(name); known != devices_.end()) {
    for (const auto& [job, taken] : held_) {
      if (taken.worker != name) continue;
      const DeviceView& view = *known->second[taken.device]->view;
      held.emplace_back(job, Spot{name, view.id, view.cuda, taken.memory});
    }
    Remove(name);
  }
  WorkerView& view = views_[name] = std::move(worker);
  std::vector<std::unique_ptr<Device>>& devices = devices_[name];
  for (size_t i = 0; i < view.devices.size(); ++i) {
    devices.push_back(std::make_unique<Device>(Device{&view, &view.devices[i], i, {}}));
    Shelve(*devices.back());
  }
  for (const auto& [job, spot] : held) Take(job, spot);
}

void Slots::Remove(const std::string& worker) {
  auto known = devices_.find(worker);
  if (known == devices_.end()) return;
  for (std::unique_ptr<Device>& device : known->second) Unshelve(*device);
  for (auto it = held_.begin(); it != held_.end();) {
    it = it->second.worker == worker ? held_.erase(it) : std::next(it);
  }
  devices_.erase(known);
  views_.erase(worker);
}

const WorkerView* Slots::Find(const std::string& worker) const {
  auto found = views_.find(worker);
  return found == views_.end() ? nullptr : &found->second;
}

void Slots::Count(const std::string& worker, size_t index, uint64_t memory, int attempts) {
  Device& device = *devices_.at(worker)[index];
  const uint32_t free = device.free(), ahead = device.room_ahead();
  device.use.attempts += static_cast<uint32_t>(attempts);
  device.use.memory += attempts > 0 ? memory : -memory;
  if (!device.worker->closed.empty()) return;
  free_ = free_ - free + device.free();
  ahead_ = ahead_ - ahead + device.room_ahead();
  Move(device, now_, free, device.free());
  Move(device, later_, ahead, device.room_ahead());
}

void Slots::Take(const std::string& job_id, const Spot& spot) {
  GiveBack(job_id);
  auto known = devices_.find(spot.worker);
  if (known == devices_.end() || known->second.empty()) return;
  const auto& devices = known->second;
  // The device that is named; else the freest of its kind.
  size_t best = devices.size();
  for (size_t i = 0; i < devices.size(); ++i) {
    if (devices[i]->view->cuda != spot.cuda) continue;
    if (!spot.device_id.empty() && devices[i]->view->id == spot.device_id) {
      best = i;
      break;
    }
    if (best == devices.size() || devices[i]->free() > devices[best]->free()) best = i;
  }
  if (best == devices.size()) return;
  const DeviceView& view = *devices[best]->view;
  // A GPU's share that nobody knows is all of it.
  const uint64_t memory = view.memory == 0 ? 0 : view.cuda && spot.memory == 0 ? view.memory : spot.memory;
  held_[job_id] = {spot.worker, best, memory};
  Count(spot.worker, best, memory, 1);
}

void Slots::GiveBack(const std::string& job_id) {
  auto found = held_.find(job_id);
  if (found == held_.end()) return;
  const Held held = std::move(found->second);
  held_.erase(found);
  Count(held.worker, held.device, held.memory, -1);
}

std::vector<Slots::DeviceUse> Slots::UseOf(const std::string& worker) const {
  std::vector<DeviceUse> uses;
  if (auto known = devices_.find(worker); known != devices_.end()) {
    for (const auto& device : known->second) uses.push_back(device->use);
  }
  return uses;
}

uint64_t Slots::Amount(const Device& device, const Requirement& requirement) {
  if (device.view->memory == 0) return 0;
  const uint64_t needs = device.view->cuda ? requirement.gpu_memory : requirement.memory;
  if (needs == 0) return device.view->cuda ? device.view->memory : 0;
  return std::min(needs, device.view->memory);
}

bool Slots::Fits(const Device& device, const QueuedJob& job, const Requirement& requirement, bool ahead) {
  if ((ahead ? device.room_ahead() : device.free()) == 0) return false;
  if (!CouldTake(*device.worker, *device.view, job.device, job.needs_exporter, requirement)) return false;
  const uint64_t amount = Amount(device, requirement);
  return device.view->memory == 0 || amount == 0 || device.use.memory + amount <= device.view->memory;
}

bool Slots::HasElsewhere(const QueuedJob& job, const Requirement& requirement) const {
  for (const auto& [name, worker] : views_) {
    if (!worker.closed.empty() || Tried(job, name)) continue;
    for (const DeviceView& device : worker.devices) {
      if (CouldTake(worker, device, job.device, job.needs_exporter, requirement)) return true;
    }
  }
  return false;
}

const Slots::Device* Slots::OnShelf(const Shelf& shelf, const QueuedJob& job, const Requirement& requirement,
                                    bool ahead, bool avoid_tried) const {
  auto look = [&](const std::set<Entry>& entries) -> const Device* {
    for (const Entry& entry : entries) {
      if (avoid_tried && Tried(job, entry.device->worker->name)) continue;
      if (Fits(*entry.device, job, requirement, ahead)) return entry.device;
    }
    return nullptr;
  };
  if (requirement.gpu_memory == 0) {
    for (auto it = shelf.rbegin(); it != shelf.rend(); ++it) {
      if (const Device* found = look(it->second)) return found;
    }
    return nullptr;
  }
  for (const auto& [memory, entries] : shelf) {
    if (memory > 0 && !Suffices(memory, requirement.gpu_memory, requirement.predicted)) continue;
    if (const Device* found = look(entries)) return found;
  }
  return nullptr;
}

const Slots::Device* Slots::AtExporterOf(const QueuedJob& job, const Requirement& requirement, bool cuda,
                                         bool ahead, bool avoid_tried) const {
  auto known = job.exported_by.empty() ? devices_.end() : devices_.find(job.exported_by);
  if (known == devices_.end() || (avoid_tried && Tried(job, job.exported_by))) return nullptr;
  if (!views_.at(job.exported_by).closed.empty()) return nullptr;
  const Device* best = nullptr;
  for (const auto& device : known->second) {
    if (device->view->cuda != cuda || !Fits(*device, job, requirement, ahead)) continue;
    if (best == nullptr || device->free() > best->free()) best = device.get();
  }
  return best;
}

std::optional<Spot> Slots::Place(const QueuedJob& job, const Requirement& requirement, bool ahead) const {
  const Shelves& shelves = ahead ? later_ : now_;
  const bool avoid_tried = !job.tried.empty() && HasElsewhere(job, requirement);
  const Device* found = nullptr;
  if (job.device != v1::CPU) {
    found = AtExporterOf(job, requirement, /*cuda=*/true, ahead, avoid_tried);
    if (found == nullptr) found = OnShelf(shelves.cuda, job, requirement, ahead, avoid_tried);
  }
  if (found == nullptr && job.device != v1::CUDA) {
    const Shelf& shelf = job.needs_exporter       ? shelves.exporter_cpu
                         : job.device == v1::AUTO ? shelves.cpu_without_gpu
                                                  : shelves.cpu;
    found = AtExporterOf(job, requirement, /*cuda=*/false, ahead, avoid_tried);
    if (found == nullptr) found = OnShelf(shelf, job, requirement, ahead, avoid_tried);
  }
  if (found == nullptr) return std::nullopt;
  return Spot{found->worker->name, found->view->id, found->view->cuda, Amount(*found, requirement)};
}

}  // namespace assay::coordinator
