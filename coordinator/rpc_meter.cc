#include "coordinator/rpc_meter.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "coordinator/access/rules.h"
#include "grpcpp/support/status.h"

namespace assay::coordinator {
namespace {

class RpcMeter final : public grpc::experimental::Interceptor {
 public:
  RpcMeter(CoordinatorMetrics* metrics, std::string method, bool streaming)
      : metrics_(metrics), method_(std::move(method)), streaming_(streaming), start_(absl::Now()) {}
  // A call whose client went away has no status of ours.
  ~RpcMeter() override { metrics_->RpcEnded(method_, code_, absl::Now() - start_, streaming_); }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = methods->GetSendStatus().error_code();
    }
    methods->Proceed();
  }

 private:
  CoordinatorMetrics* const metrics_;
  const std::string method_;
  const bool streaming_;
  const absl::Time start_;
  int code_ = grpc::StatusCode::CANCELLED;
};

class RpcMeterFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit RpcMeterFactory(CoordinatorMetrics* metrics) : metrics_(metrics) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    if (info->method() != nullptr && info->method() == kWorkerStreamPath) return nullptr;
    // "/assay.v1.BatchService/SubmitBatch" is told as "BatchService.SubmitBatch".
    std::string method = info->method() == nullptr ? "other" : info->method();
    if (absl::StartsWith(method, "/")) method.erase(0, 1);
    if (absl::StartsWith(method, "assay.v1.")) method.erase(0, 9);
    std::replace(method.begin(), method.end(), '/', '.');
    return new RpcMeter(metrics_, std::move(method),
                        info->type() != grpc::experimental::ServerRpcInfo::Type::UNARY);
  }

 private:
  CoordinatorMetrics* const metrics_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewRpcMeter(
    CoordinatorMetrics* metrics) {
  return std::make_unique<RpcMeterFactory>(metrics);
}

}  // namespace assay::coordinator
