#pragma once
#include <time.h>
#include <cstdio>
#include <cstdint>
#include <map>
#include <string>
namespace assay { 
struct Timers {
  struct T { double wall = 0, cpu = 0; long n = 0; };
  std::map<std::string, T> all;
  long jobs = 0;
  static Timers& Get() { static Timers t; return t; }
  ~Timers() {
    std::FILE* f = std::fopen("/tmp/s9/timers.txt", "w");
    for (auto& [k, v] : all) std::fprintf(f, "%-28s wall %8.1f ms cpu %8.1f ms n %ld\n", k.c_str(), v.wall * 1e3, v.cpu * 1e3, v.n);
    std::fclose(f);
  }
};
inline double NowOf(clockid_t c) { timespec t; clock_gettime(c, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
inline thread_local bool sub = false;
inline thread_local const char* phase = "";
struct TSpan {
  const char* name; const char* outer; double w, c;
  explicit TSpan(const char* n) : name(n), outer(phase), w(NowOf(CLOCK_MONOTONIC)), c(NowOf(CLOCK_THREAD_CPUTIME_ID)) { if (n[1] == ' ' || n[1] == 'a' || n[1] == 'b' || n[1] == 'c') phase = n; }
  void End() { if (!name) return; if (sub) return; auto& t = Timers::Get().all[name[0] == 'p' ? std::string(name) + " in " + outer : std::string(name)]; if (name[0] != 'p') phase = outer; t.wall += NowOf(CLOCK_MONOTONIC) - w; t.cpu += NowOf(CLOCK_THREAD_CPUTIME_ID) - c; ++t.n; name = nullptr; }
  ~TSpan() { End(); }
};
}
